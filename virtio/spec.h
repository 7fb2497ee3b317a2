// The numbers and structures of "Virtual I/O Device (VIRTIO) Version 1.2" that Hutch uses, and
// nothing else. Section numbers are of that document.
#pragma once

#include <cstdint>

#include "base/wire.h"

namespace hutch::virtio::spec {

// 2.1 Device status field
constexpr uint32_t kStatusAcknowledge = 1;
constexpr uint32_t kStatusDriver = 2;
constexpr uint32_t kStatusDriverOk = 4;
constexpr uint32_t kStatusFeaturesOk = 8;
constexpr uint32_t kStatusNeedsReset = 64;
constexpr uint32_t kStatusFailed = 128;

// 6 Reserved feature bits
constexpr uint64_t kFeatureIndirectDescriptors = 1ull << 28;
constexpr uint64_t kFeatureEventIndex = 1ull << 29;
constexpr uint64_t kFeatureVersion1 = 1ull << 32;

// 2.7 Split virtqueues
constexpr uint16_t kMaxQueueSize = 32768;
constexpr uint64_t kDescriptorTableAlignment = 16;
constexpr uint64_t kAvailableRingAlignment = 2;
constexpr uint64_t kUsedRingAlignment = 4;

// 2.7.5 The virtqueue descriptor table
struct Descriptor {
  le64 address;
  le32 length;
  le16 flags;
  le16 next;
};
static_assert(sizeof(Descriptor) == 16);
constexpr uint16_t kDescriptorNext = 1;
constexpr uint16_t kDescriptorWrite = 2;
constexpr uint16_t kDescriptorIndirect = 4;

// 2.7.6 and 2.7.8 The available and used rings: flags, index, entries, event
constexpr uint64_t kRingFlags = 0;
constexpr uint64_t kRingIndex = 2;
constexpr uint64_t kRingEntries = 4;
constexpr uint16_t kAvailableNoInterrupt = 1;
constexpr uint16_t kUsedNoNotify = 1;
using AvailableEntry = le16;
struct UsedEntry {
  le32 head;
  le32 length;
};
static_assert(sizeof(UsedEntry) == 8);

// 4.2.2 MMIO device register layout
constexpr uint32_t kMmioMagic = 0x74726976;
constexpr uint32_t kMmioVersion = 2;
constexpr uint64_t kRegisterMagic = 0x000;
constexpr uint64_t kRegisterVersion = 0x004;
constexpr uint64_t kRegisterDeviceId = 0x008;
constexpr uint64_t kRegisterVendorId = 0x00c;
constexpr uint64_t kRegisterDeviceFeatures = 0x010;
constexpr uint64_t kRegisterDeviceFeaturesSelect = 0x014;
constexpr uint64_t kRegisterDriverFeatures = 0x020;
constexpr uint64_t kRegisterDriverFeaturesSelect = 0x024;
constexpr uint64_t kRegisterQueueSelect = 0x030;
constexpr uint64_t kRegisterQueueSizeMax = 0x034;
constexpr uint64_t kRegisterQueueSize = 0x038;
constexpr uint64_t kRegisterQueueReady = 0x044;
constexpr uint64_t kRegisterQueueNotify = 0x050;
constexpr uint64_t kRegisterInterruptStatus = 0x060;
constexpr uint64_t kRegisterInterruptAcknowledge = 0x064;
constexpr uint64_t kRegisterStatus = 0x070;
constexpr uint64_t kRegisterQueueDescriptorsLow = 0x080;
constexpr uint64_t kRegisterQueueDescriptorsHigh = 0x084;
constexpr uint64_t kRegisterQueueDriverLow = 0x090;
constexpr uint64_t kRegisterQueueDriverHigh = 0x094;
constexpr uint64_t kRegisterQueueDeviceLow = 0x0a0;
constexpr uint64_t kRegisterQueueDeviceHigh = 0x0a4;
constexpr uint64_t kRegisterSharedMemoryLengthLow = 0x0b0;
constexpr uint64_t kRegisterSharedMemoryLengthHigh = 0x0b4;
constexpr uint64_t kRegisterSharedMemoryBaseLow = 0x0b8;
constexpr uint64_t kRegisterSharedMemoryBaseHigh = 0x0bc;
constexpr uint64_t kRegisterConfigGeneration = 0x0fc;
constexpr uint64_t kRegisterConfig = 0x100;
constexpr uint32_t kInterruptUsedBuffer = 1;
constexpr uint32_t kInterruptConfigChange = 2;

// 5 Device types
constexpr uint32_t kDeviceIdNet = 1;
constexpr uint32_t kDeviceIdBlock = 2;
constexpr uint32_t kDeviceIdEntropy = 4;
constexpr uint32_t kDeviceIdVsock = 19;

// 5.1 Network device
constexpr uint16_t kNetQueueReceive = 0;
constexpr uint16_t kNetQueueTransmit = 1;
constexpr uint64_t kNetFeatureChecksum = 1ull << 0;  // what the driver sends
constexpr uint64_t kNetFeatureGuestChecksum = 1ull << 1;
constexpr uint64_t kNetFeatureMtu = 1ull << 3;
constexpr uint64_t kNetFeatureMac = 1ull << 5;
constexpr uint64_t kNetFeatureGuestTcp4 = 1ull << 7;
constexpr uint64_t kNetFeatureGuestTcp6 = 1ull << 8;
constexpr uint64_t kNetFeatureHostTcp4 = 1ull << 11;
constexpr uint64_t kNetFeatureHostTcp6 = 1ull << 12;
constexpr uint64_t kNetFeatureMergeableBuffers = 1ull << 15;
constexpr uint64_t kNetFeatureStatus = 1ull << 16;
constexpr uint16_t kNetStatusLinkUp = 1;

// 5.1.4 Device configuration layout
struct NetConfig {
  uint8_t mac[6];
  le16 status;
  le16 max_queue_pairs;
  le16 mtu;
};
static_assert(sizeof(NetConfig) == 12);

// 5.1.6 Device operation
struct NetHeader {
  uint8_t flags;
  uint8_t segmentation;
  le16 header_length;
  le16 segment_size;
  le16 checksum_start;
  le16 checksum_offset;
  le16 buffer_count;
};
static_assert(sizeof(NetHeader) == 12);
constexpr uint8_t kNetNeedsChecksum = 1;
constexpr uint8_t kNetDataValid = 2;
constexpr uint8_t kNetSegmentationNone = 0;
constexpr uint8_t kNetSegmentationTcp4 = 1;
constexpr uint8_t kNetSegmentationTcp6 = 4;

// 5.2 Block device
constexpr uint64_t kBlockFeatureSegMax = 1ull << 2;
constexpr uint64_t kBlockFeatureReadOnly = 1ull << 5;
constexpr uint64_t kBlockFeatureBlockSize = 1ull << 6;
constexpr uint64_t kBlockFeatureFlush = 1ull << 9;
constexpr uint64_t kBlockFeatureDiscard = 1ull << 13;
constexpr uint64_t kBlockFeatureWriteZeroes = 1ull << 14;
constexpr uint64_t kSectorSize = 512;

// 5.2.4 Device configuration layout
struct BlockConfig {
  le64 capacity;  // in sectors
  le32 size_max;
  le32 seg_max;
  le16 cylinders;
  uint8_t heads;
  uint8_t sectors;
  le32 block_size;
  uint8_t physical_block_exponent;
  uint8_t alignment_offset;
  le16 min_io_size;
  le32 optimal_io_size;
  uint8_t writeback;
  uint8_t unused0;
  le16 queue_count;
  le32 max_discard_sectors;
  le32 max_discard_segments;
  le32 discard_sector_alignment;
  le32 max_write_zeroes_sectors;
  le32 max_write_zeroes_segments;
  uint8_t write_zeroes_may_unmap;
  uint8_t unused1[3];
};
static_assert(sizeof(BlockConfig) == 60);

// 5.2.6 Device operation
struct BlockRequestHeader {
  le32 type;
  le32 reserved;
  le64 sector;
};
static_assert(sizeof(BlockRequestHeader) == 16);
struct BlockRange {  // of discard and write zeroes
  le64 sector;
  le32 sector_count;
  le32 flags;
};
static_assert(sizeof(BlockRange) == 16);
constexpr uint32_t kBlockIn = 0;
constexpr uint32_t kBlockOut = 1;
constexpr uint32_t kBlockFlush = 4;
constexpr uint32_t kBlockGetId = 8;
constexpr uint32_t kBlockDiscard = 11;
constexpr uint32_t kBlockWriteZeroes = 13;
constexpr uint32_t kBlockRangeUnmap = 1;
constexpr uint8_t kBlockStatusOk = 0;
constexpr uint8_t kBlockStatusIoError = 1;
constexpr uint8_t kBlockStatusUnsupported = 2;
constexpr uint64_t kBlockIdSize = 20;

// 5.10 Socket device
constexpr uint16_t kVsockQueueRx = 0;
constexpr uint16_t kVsockQueueTx = 1;
constexpr uint16_t kVsockQueueEvent = 2;
constexpr uint64_t kVsockFeatureStream = 1ull << 0;
constexpr uint64_t kVsockHostCid = 2;
struct VsockConfig {
  le64 guest_cid;
};
static_assert(sizeof(VsockConfig) == 8);

// 5.10.6 Device operation
struct VsockHeader {
  le64 source_cid;
  le64 destination_cid;
  le32 source_port;
  le32 destination_port;
  le32 length;
  le16 type;
  le16 operation;
  le32 flags;
  le32 buffer_allocation;
  le32 forwarded_count;
};
static_assert(sizeof(VsockHeader) == 44);
constexpr uint16_t kVsockTypeStream = 1;
constexpr uint16_t kVsockRequest = 1;
constexpr uint16_t kVsockResponse = 2;
constexpr uint16_t kVsockReset = 3;
constexpr uint16_t kVsockShutdown = 4;
constexpr uint16_t kVsockReadWrite = 5;
constexpr uint16_t kVsockCreditUpdate = 6;
constexpr uint16_t kVsockCreditRequest = 7;
constexpr uint32_t kVsockEventTransportReset = 0;
constexpr uint32_t kVsockShutdownReceive = 1;
constexpr uint32_t kVsockShutdownSend = 2;

}  // namespace hutch::virtio::spec
