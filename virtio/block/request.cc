#include "virtio/block/request.h"

namespace hutch::virtio::block {
namespace {

constexpr uint64_t kHeaderSize = sizeof(spec::BlockRequestHeader);

// Whether `size` bytes at `sector` (guest-controlled) are whole sectors inside the disk.
bool fits(const Disk& disk, uint64_t sector, uint64_t size) {
  const uint64_t sectors = disk.size / spec::kSectorSize;
  return size % spec::kSectorSize == 0 && sector <= sectors &&
         size / spec::kSectorSize <= sectors - sector;
}

Request refuse(Request request, uint8_t status) {
  request.pending.kind = Kind::kRefused;
  request.pending.refusal = status;
  return request;
}

Result<Request> parse_transfer(const Chain& chain, const Disk& disk, Request request, bool is_write,
                               uint64_t sector) {
  const uint64_t readable = chain.readable_size() - kHeaderSize;
  const uint64_t writable = request.pending.status_offset;
  const uint64_t size = is_write ? readable : writable;
  // Data in the other direction would be a request that means something else.
  const bool is_one_way = (is_write ? writable : readable) == 0;
  if (size == 0 || size > kMaxTransfer || !is_one_way || !fits(disk, sector, size) ||
      (is_write && disk.read_only))
    return refuse(std::move(request), spec::kBlockStatusIoError);
  request.pending.kind = is_write ? Kind::kWrite : Kind::kRead;
  request.pending.data_size = writable;
  request.offset = sector * spec::kSectorSize;
  request.buffers = is_write ? TRY(chain.readable_view(kHeaderSize, size))
                             : TRY(chain.writable_view(0, size));
                             return request;
}

// Section 5.2.6.2: ranges of discard and write zeroes.
Result<Request> parse_ranges(const Chain& chain, const Disk& disk, Request request, Kind kind) {
  const bool is_discard = kind == Kind::kDiscard;
  const uint64_t feature = is_discard ? spec::kBlockFeatureDiscard : spec::kBlockFeatureWriteZeroes;
  if ((disk.features & feature) == 0)
    return refuse(std::move(request), spec::kBlockStatusUnsupported);
  const uint64_t size = chain.readable_size() - kHeaderSize;
  const uint64_t count = size / sizeof(spec::BlockRange);
  if (count == 0 || size % sizeof(spec::BlockRange) != 0 ||
      count > (is_discard ? kMaxDiscardRanges : kMaxZeroRanges) ||
      request.pending.status_offset != 0 || disk.read_only)
    return refuse(std::move(request), spec::kBlockStatusIoError);

  std::vector<spec::BlockRange> ranges(count);
  TRY(chain.read(kHeaderSize, std::as_writable_bytes(std::span(ranges))));
  for (const spec::BlockRange& range : ranges) {
    const uint32_t flags = range.flags;
    if ((flags & ~(is_discard ? 0 : spec::kBlockRangeUnmap)) != 0)
      return refuse(std::move(request), spec::kBlockStatusUnsupported);
    const uint64_t bytes = static_cast<uint64_t>(range.sector_count) * spec::kSectorSize;
    if (range.sector_count > (is_discard ? kMaxDiscardSectors : kMaxZeroSectors) ||
        !fits(disk, range.sector, bytes))
      return refuse(std::move(request), spec::kBlockStatusIoError);
    if (bytes > 0)
      request.ranges.push_back(
          {range.sector * spec::kSectorSize, bytes, (flags & spec::kBlockRangeUnmap) != 0});
  }
  request.pending.kind = kind;
  return request;
}

}  // namespace

Result<Request> parse(const Chain& chain, const Disk& disk) {
  if (chain.writable_size() == 0) return fail("a block request without a status byte");
  Request request;
  request.pending.status_offset = chain.writable_size() - 1;

  spec::BlockRequestHeader header;
  if (TRY(chain.read(0, std::as_writable_bytes(std::span(&header, 1)))) != sizeof header)
    return refuse(std::move(request), spec::kBlockStatusIoError);
  switch (header.type) {
    case spec::kBlockIn:
      return parse_transfer(chain, disk, std::move(request), false, header.sector);
    case spec::kBlockOut:
      return parse_transfer(chain, disk, std::move(request), true, header.sector);
    case spec::kBlockFlush:
      request.pending.kind = Kind::kFlush;
      return request;
    case spec::kBlockGetId:
      if (request.pending.status_offset < spec::kBlockIdSize)
        return refuse(std::move(request), spec::kBlockStatusIoError);
      request.pending.kind = Kind::kIdentify;
      request.pending.data_size = spec::kBlockIdSize;
      return request;
    case spec::kBlockDiscard:
      return parse_ranges(chain, disk, std::move(request), Kind::kDiscard);
    case spec::kBlockWriteZeroes:
      return parse_ranges(chain, disk, std::move(request), Kind::kWriteZeroes);
    default:
      return refuse(std::move(request), spec::kBlockStatusUnsupported);
  }
}

Finished finish(const Pending& pending, const Result<void>& result) {
  Finished finished;
  if (pending.kind == Kind::kRefused) {
    finished.status = pending.refusal;
  } else if (!result) {
    finished.status = spec::kBlockStatusIoError;
  }
  // The status byte lies behind the data; it counts only when everything before it is valid.
  if (finished.status == spec::kBlockStatusOk) finished.written = pending.data_size;
  if (finished.written == pending.status_offset) finished.written++;
  return finished;
}

}  // namespace hutch::virtio::block
