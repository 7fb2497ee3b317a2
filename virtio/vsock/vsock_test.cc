// The socket device between a fake driver and real sockets.
#include "virtio/vsock/vsock.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <random>
#include <thread>

#include "base/sys.h"
#include "tests/guest_driver.h"
#include "virtio/mmio.h"

namespace hutch::virtio {
namespace {

using testing::GuestQueue;
using testing::GuestRequest;
using testing::kMiB;
using testing::to_bytes;
using testing::to_text;
using vsock::Connection;
using vsock::kHeaderSize;
using vsock::Packet;

constexpr uint64_t kGuestCid = 3;
constexpr uint32_t kHostPort = 1024;
constexpr uint32_t kGuestPort = 5000;
constexpr uint32_t kRxBuffer = 4096;

struct Received {
  Packet packet;
  std::vector<std::byte> payload;
};

// The guest's half of the protocol, as much of it as a test asks for.
class Guest {
 public:
  explicit Guest(uint32_t rx_buffers = 16)
      : transport_(MmioTransport::create("vsock", memory, device, interrupt).value()),
        driver(*transport_) {
    driver.start(spec::kFeatureEventIndex | spec::kFeatureIndirectDescriptors, {&rx, &tx, &event});
    post_buffers(rx_buffers);
  }

  void post_buffers(uint32_t count) {
    for (uint32_t i = 0; i < count; i++) posted_.push_back(rx.writable(kRxBuffer).submit());
    driver.kick(spec::kVsockQueueRx);
    run();
  }
  void run() {
    for (int i = 0; i < 4; i++) REQUIRE(loop->run_once(0));
  }
  void send(Packet packet, std::span<const std::byte> payload = {}) {
    submit(packet, payload);
    driver.kick(spec::kVsockQueueTx);
    run();
    while (tx.take_used()) {
    }
  }
  // Makes a packet available without telling the device.
  void submit(Packet packet, std::span<const std::byte> payload = {}) {
    spec::VsockHeader header{
        packet.source_cid,       packet.destination_cid, packet.source_port,
        packet.destination_port, packet.length,          packet.type,
        packet.operation,        packet.flags,           packet.buffer_allocation,
        packet.forwarded_count};
    testing::RequestBuilder builder = tx.readable(testing::bytes_of(header));
    if (!payload.empty()) std::move(builder).readable(payload);
    std::move(builder).submit();
  }
  // A packet to the host's port with all fields in order.
  Packet packet(uint16_t operation, uint32_t flags = 0) const {
    return {.source_cid = kGuestCid,
            .destination_cid = spec::kVsockHostCid,
            .source_port = guest_port,
            .destination_port = host_port,
            .operation = operation,
            .flags = flags,
            .buffer_allocation = buffer_allocation,
            .forwarded_count = consumed};
  }
  void send(uint16_t operation, uint32_t flags = 0) { send(packet(operation, flags)); }
  void send_data(std::span<const std::byte> payload) {
    Packet data = packet(spec::kVsockReadWrite);
    data.length = static_cast<uint32_t>(payload.size());
    send(data, payload);
  }
  void send_data(std::string_view text) { send_data(to_bytes(text)); }

  // The next packet from the device; the buffer is posted again.
  std::optional<Received> receive() {
    run();
    std::optional<GuestQueue::Used> used = rx.take_used();
    if (!used) return std::nullopt;
    GuestRequest request = posted_.front();
    posted_.pop_front();
    REQUIRE(used->head == request.head);
    std::vector<std::byte> bytes = rx.written(request);
    bytes.resize(used->length);
    spec::VsockHeader header;
    REQUIRE(bytes.size() >= sizeof header);
    std::memcpy(&header, bytes.data(), sizeof header);
    Received received{{.source_cid = header.source_cid,
                       .destination_cid = header.destination_cid,
                       .source_port = header.source_port,
                       .destination_port = header.destination_port,
                       .length = header.length,
                       .type = header.type,
                       .operation = header.operation,
                       .flags = header.flags,
                       .buffer_allocation = header.buffer_allocation,
                       .forwarded_count = header.forwarded_count},
                      {bytes.begin() + sizeof header, bytes.end()}};
    CHECK(received.payload.size() == received.packet.length);
    CHECK(received.packet.destination_cid == kGuestCid);
    if (repost) posted_.push_back(rx.writable(kRxBuffer).submit());
    driver.kick(spec::kVsockQueueRx);
    return received;
  }
  // The operation of the next packet, 0 when there is none.
  uint16_t next() {
    std::optional<Received> received = receive();
    last = received.value_or(Received());
    return last.packet.operation;
  }

  // An offered port, opened by the guest: returns the host's end.
  Fd open() {
    auto [ours, theirs] = socket_pair(SOCK_STREAM).value();
    device.offer(host_port, std::move(ours));
    send(spec::kVsockRequest);
    CHECK(next() == spec::kVsockResponse);
    return std::move(theirs);
  }

  GuestMemory memory = testing::make_memory(16 * kMiB);
  std::unique_ptr<Loop> loop = Loop::create().value();
  Vsock device{*loop, kGuestCid};
  testing::FakeInterrupt interrupt;

 private:
  std::unique_ptr<MmioTransport> transport_;
  std::deque<GuestRequest> posted_;

 public:
  testing::MmioDriver driver;
  GuestQueue rx{memory, GuestAddress(0x100000), 256, 2 * kMiB};
  GuestQueue tx{memory, GuestAddress(0x400000), 256, 2 * kMiB};
  GuestQueue event{memory, GuestAddress(0x700000), 16};
  uint32_t host_port = kHostPort;
  uint32_t guest_port = kGuestPort;
  uint32_t buffer_allocation = 256 * 1024;
  uint32_t consumed = 0;
  bool repost = true;
  Received last;
};

void write_text(int fd, std::string_view text) {
  REQUIRE(write_all(fd, to_bytes(text)));
}
// What a stream holds now; "<end>" at its end.
std::string read_text(int fd) {
  std::array<char, 65536> buffer;
  ssize_t count = ::recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (count == 0) return "<end>";
  return {buffer.data(), count > 0 ? static_cast<size_t>(count) : 0};
}

TEST_CASE("the guest finds its CID in the configuration") {
  Guest guest;
  CHECK(guest.driver.read(spec::kRegisterConfig) == kGuestCid);
  CHECK(guest.driver.read(spec::kRegisterConfig + 4) == 0);
}

TEST_CASE("an offered port opens once and carries bytes both ways") {
  Guest guest;
  Fd host = guest.open();
  CHECK(guest.last.packet.source_cid == spec::kVsockHostCid);
  CHECK(guest.last.packet.source_port == kHostPort);
  CHECK(guest.last.packet.destination_port == kGuestPort);
  CHECK(guest.last.packet.buffer_allocation == Connection::kBufferSize);
  guest.send_data("from the guest");
  CHECK(read_text(host.get()) == "from the guest");
  write_text(host.get(), "from the host");
  CHECK(guest.next() == spec::kVsockReadWrite);
  CHECK(to_text(guest.last.payload) == "from the host");
  CHECK(guest.last.packet.forwarded_count == 14);
  CHECK(guest.next() == 0);

  guest.guest_port++;
  guest.send(spec::kVsockRequest);
  CHECK(guest.next() == spec::kVsockReset);
  CHECK(guest.device.connection_count() == 1);
}

TEST_CASE("the host connects to a port of the guest") {
  Guest guest;
  auto [ours, host] = socket_pair(SOCK_STREAM).value();
  write_text(host.get(), "early");
  REQUIRE(guest.device.connect(22, std::move(ours)));
  CHECK(guest.next() == spec::kVsockRequest);
  CHECK(guest.last.packet.destination_port == 22);
  uint32_t host_port = guest.last.packet.source_port;
  CHECK(guest.next() == 0);
  guest.guest_port = 22;
  guest.host_port = host_port;
  guest.send(spec::kVsockResponse);
  CHECK(guest.next() == spec::kVsockReadWrite);
  CHECK(to_text(guest.last.payload) == "early");
  guest.send_data("answer");
  CHECK(read_text(host.get()) == "answer");
}

TEST_CASE("a connection that the guest refuses closes its stream") {
  Guest guest;
  auto [ours, host] = socket_pair(SOCK_STREAM).value();
  REQUIRE(guest.device.connect(22, std::move(ours)));
  CHECK(guest.next() == spec::kVsockRequest);
  guest.guest_port = 22;
  guest.host_port = guest.last.packet.source_port;
  guest.send(spec::kVsockReset);
  CHECK(read_text(host.get()) == "<end>");
  CHECK(guest.device.connection_count() == 0);
}

TEST_CASE("each side ends its direction alone") {
  Guest guest;
  Fd host = guest.open();
  SUBCASE("the guest first") {
    guest.send_data("last words");
    guest.send(spec::kVsockShutdown, spec::kVsockShutdownSend);
    CHECK(read_text(host.get()) == "last words");
    CHECK(read_text(host.get()) == "<end>");
    write_text(host.get(), "answer");
    host.reset();
    CHECK(guest.next() == spec::kVsockReadWrite);
    CHECK(to_text(guest.last.payload) == "answer");
    CHECK(guest.next() == spec::kVsockShutdown);
    CHECK((guest.last.packet.flags & spec::kVsockShutdownSend) != 0);
    guest.send(spec::kVsockShutdown, 3);
    CHECK(guest.next() == spec::kVsockReset);
  }
  SUBCASE("the host first") {
    write_text(host.get(), "question");
    REQUIRE(::shutdown(host.get(), SHUT_WR) == 0);
    CHECK(guest.next() == spec::kVsockReadWrite);
    CHECK(guest.next() == spec::kVsockShutdown);
    CHECK(guest.last.packet.flags == spec::kVsockShutdownSend);
    guest.send_data("answer");
    CHECK(read_text(host.get()) == "answer");
    guest.send(spec::kVsockShutdown, 3);
    CHECK(guest.next() == spec::kVsockReset);
    CHECK(read_text(host.get()) == "<end>");
  }
  SUBCASE("the guest receives no more") {
    guest.send(spec::kVsockShutdown, spec::kVsockShutdownReceive);
    CHECK(::send(host.get(), "x", 1, MSG_NOSIGNAL) == -1);
    guest.send_data("still talking");
    CHECK(read_text(host.get()) == "still talking");
    guest.send(spec::kVsockShutdown, spec::kVsockShutdownSend);
    CHECK(guest.next() == spec::kVsockReset);
  }
  CHECK(guest.device.connection_count() == 0);
}

TEST_CASE("a host that closes ends both directions, and nothing it wrote is lost") {
  Guest guest;
  Fd host = guest.open();
  std::string text(10'000, 'h');
  write_text(host.get(), text);
  host.reset();
  std::string received;
  while (guest.next() == spec::kVsockReadWrite) received += to_text(guest.last.payload);
  uint32_t flags = guest.last.packet.flags;
  CHECK(guest.last.packet.operation == spec::kVsockShutdown);
  while (guest.next() == spec::kVsockReadWrite) received += to_text(guest.last.payload);
  flags |= guest.last.packet.flags;
  CHECK(received == text);
  CHECK(flags == (spec::kVsockShutdownSend | spec::kVsockShutdownReceive));
  guest.send_data("to nobody");
  guest.send(spec::kVsockReset);
  CHECK(guest.device.connection_count() == 0);
}

TEST_CASE("bytes that the stream does not take are kept, in order, until it does") {
  Guest guest;
  Fd host = guest.open();
  std::string sent;
  // As a correct guest does: no more than the host said it has room for.
  uint32_t credit = Connection::kBufferSize;
  for (int i = 0; credit >= 10'000; i++) {
    std::string block(10'000, static_cast<char>('a' + i % 26));
    guest.send_data(block);
    sent += block;
    credit -= 10'000;
  }
  guest.send(spec::kVsockShutdown, 3);
  while (guest.next() == spec::kVsockCreditUpdate) {
  }
  CHECK(guest.last.packet.operation == 0);  // no RST while bytes wait
  // The guest forgets the connection before the host has read.
  guest.send(spec::kVsockReset);
  std::string received;
  for (std::string part; (part = read_text(host.get())) != "<end>"; guest.run()) received += part;
  CHECK(received == sent);
  CHECK(guest.device.connection_count() == 0);
}

TEST_CASE("the guest's credit stops the device, and asks for more only once") {
  Guest guest;
  guest.buffer_allocation = 10'000;
  Fd host = guest.open();
  write_text(host.get(), std::string(30'000, 'h'));
  uint32_t received = 0;
  while (guest.next() == spec::kVsockReadWrite) received += guest.last.packet.length;
  CHECK(received == 10'000);
  CHECK(guest.last.packet.operation == spec::kVsockCreditRequest);
  CHECK(guest.next() == 0);
  guest.consumed = 10'000;
  guest.send(spec::kVsockCreditUpdate);
  while (guest.next() == spec::kVsockReadWrite) received += guest.last.packet.length;
  CHECK(received == 20'000);
}

TEST_CASE("16 MiB each way at once arrive intact") {
  Guest guest(64);
  Fd host = guest.open();
  constexpr size_t kTotal = 16 * kMiB;
  auto pattern = [](size_t i) { return static_cast<std::byte>(i * 7 / 3 % 253); };
  std::atomic<size_t> host_wrong{0};
  std::atomic<bool> host_done{false};
  std::thread echo([&] {
    // The host's side: writes its pattern, reads the guest's.
    std::thread writer([&] {
      std::vector<std::byte> bytes(kTotal);
      for (size_t i = 0; i < kTotal; i++) bytes[i] = pattern(i);
      REQUIRE(write_all(host.get(), bytes));
      REQUIRE(::shutdown(host.get(), SHUT_WR) == 0);
    });
    std::vector<std::byte> bytes(65536);
    size_t total = 0;
    for (ssize_t count; (count = ::read(host.get(), bytes.data(), bytes.size())) > 0;) {
      for (size_t i = 0; i < static_cast<size_t>(count); i++)
        host_wrong += bytes[i] != pattern(total++);
    }
    host_wrong += total != kTotal;
    writer.join();
    host_done = true;
  });

  size_t sent = 0, received = 0, wrong = 0;
  uint32_t told = 0;
  bool ended = false;
  std::vector<std::byte> block(32'768);
  while (sent < kTotal || !ended) {
    if (sent < kTotal &&
        static_cast<uint32_t>(sent) - told + block.size() <= Connection::kBufferSize) {
      for (size_t i = 0; i < block.size(); i++) block[i] = pattern(sent + i);
      guest.send_data(block);
      sent += block.size();
      if (sent == kTotal) guest.send(spec::kVsockShutdown, spec::kVsockShutdownSend);
    }
    uint16_t operation = guest.next();
    if (operation == 0) {
      std::this_thread::yield();
      continue;
    }
    told = guest.last.packet.forwarded_count;
    for (std::byte byte : guest.last.payload) wrong += byte != pattern(received++);
    if (operation == spec::kVsockReadWrite && guest.consumed + 65536 < received) {
      guest.consumed = static_cast<uint32_t>(received);
      guest.send(spec::kVsockCreditUpdate);
    }
    ended = ended || operation == spec::kVsockShutdown;
  }
  // What the host has not read yet is with the device.
  while (!host_done) guest.run();
  echo.join();
  CHECK(received == kTotal);
  CHECK(wrong == 0);
  CHECK(host_wrong == 0);
}

TEST_CASE("a guest without receive buffers is waited for, and woken connections go on") {
  Guest guest(1);
  guest.repost = false;
  Fd host = guest.open();
  write_text(host.get(), "one");
  guest.run();
  CHECK(guest.next() == 0);
  guest.post_buffers(1);
  CHECK(guest.next() == spec::kVsockReadWrite);
  CHECK(to_text(guest.last.payload) == "one");
}

TEST_CASE("many connections share the guest's buffers fairly") {
  Guest guest(1);
  std::vector<Fd> hosts;
  for (uint32_t i = 0; i < 8; i++) {
    guest.guest_port = 100 + i;
    hosts.push_back(guest.open());
  }
  for (const Fd& host : hosts) write_text(host.get(), std::string(40'000, 'h'));
  std::map<uint32_t, int> packets;
  for (int i = 0; i < 40; i++) {
    CHECK(guest.next() == spec::kVsockReadWrite);
    packets[guest.last.packet.destination_port]++;
  }
  for (uint32_t i = 0; i < 8; i++) CHECK(packets[100 + i] >= 4);
}

TEST_CASE("a reset of the device ends connections and keeps offers") {
  Guest guest;
  Fd host = guest.open();
  auto [ours, theirs] = socket_pair(SOCK_STREAM).value();
  guest.device.offer(7, std::move(ours));
  guest.driver.reset();
  CHECK(read_text(host.get()) == "<end>");
  CHECK(guest.device.connection_count() == 0);
  guest.rx.clear();
  guest.tx.clear();
  guest.event.clear();
  guest.driver.start(0, {&guest.rx, &guest.tx, &guest.event});
  guest.host_port = 7;
  guest.send(spec::kVsockRequest);
  CHECK(guest.device.connection_count() == 1);
}

// --- V21 ---------------------------------------------------------------------------------------

TEST_CASE("V21: nothing opens but what was offered") {
  Guest guest;
  for (uint32_t port : {0u, 1u, 22u, 1023u, 1025u, 0xffffffffu}) {
    guest.host_port = port;
    guest.send(spec::kVsockRequest);
    CHECK(guest.next() == spec::kVsockReset);
    CHECK(guest.last.packet.source_port == port);
    CHECK(guest.last.packet.destination_port == kGuestPort);
  }
  CHECK(guest.device.connection_count() == 0);
}

TEST_CASE("V21: packets without a connection are answered with RST, an RST with nothing") {
  Guest guest;
  for (int operation : {2, 4, 5, 6, 7, 0, 8, 0xffff}) {
    guest.send(static_cast<uint16_t>(operation));
    CHECK(guest.next() == spec::kVsockReset);
  }
  guest.send(spec::kVsockReset);
  CHECK(guest.next() == 0);
  CHECK(guest.device.connection_count() == 0);
}

TEST_CASE("V21: a second REQUEST, a RESPONSE or an unknown operation resets the connection") {
  for (uint16_t operation :
       {spec::kVsockRequest, spec::kVsockResponse, uint16_t{0}, uint16_t{99}}) {
    Guest guest;
    Fd host = guest.open();
    guest.send(operation);
    CHECK(guest.next() == spec::kVsockReset);
    CHECK(guest.device.connection_count() == 0);
    CHECK(read_text(host.get()) == "<end>");
  }
}

TEST_CASE("V21: forged addresses and other types reach no connection") {
  Guest guest;
  Fd host = guest.open();
  Packet data = guest.packet(spec::kVsockReadWrite);
  data.length = 4;
  auto send_changed = [&](auto change) {
    Packet changed = data;
    change(changed);
    guest.send(changed, to_bytes("evil"));
    return guest.next();
  };
  // A forged sender cannot be answered; the others are.
  for (uint64_t cid : {uint64_t{0}, uint64_t{2}, uint64_t{4}, uint64_t{3} << 32 | 3, UINT64_MAX})
    CHECK(send_changed([&](Packet& packet) { packet.source_cid = cid; }) == 0);
  for (uint64_t cid : {uint64_t{0}, uint64_t{1}, uint64_t{3}, uint64_t{1} << 32 | 2, UINT64_MAX}) {
    CHECK(send_changed([&](Packet& packet) { packet.destination_cid = cid; }) == spec::kVsockReset);
    CHECK(guest.last.packet.source_cid == cid);
  }
  for (int type : {0, 2, 3, 0xffff}) {
    CHECK(send_changed([&](Packet& packet) { packet.type = static_cast<uint16_t>(type); }) ==
          spec::kVsockReset);
    CHECK(guest.last.packet.type == type);
  }
  CHECK(send_changed([&](Packet& packet) { packet.source_port++; }) == spec::kVsockReset);
  CHECK(send_changed([&](Packet& packet) { packet.destination_port++; }) == spec::kVsockReset);
  CHECK(read_text(host.get()).empty());
  guest.send(data, to_bytes("good"));
  CHECK(read_text(host.get()) == "good");
}

TEST_CASE("V21: a SEQPACKET request to an offered port is refused and uses nothing up") {
  Guest guest;
  auto [ours, theirs] = socket_pair(SOCK_STREAM).value();
  guest.device.offer(kHostPort, std::move(ours));
  Packet request = guest.packet(spec::kVsockRequest);
  request.type = 2;
  guest.send(request);
  CHECK(guest.next() == spec::kVsockReset);
  guest.send(spec::kVsockRequest);
  CHECK(guest.next() == spec::kVsockResponse);
}

TEST_CASE("V21: a packet shorter than it says, or than a header, breaks the queue") {
  SUBCASE("a payload longer than the buffers") {
    Guest guest;
    Fd host = guest.open();
    Packet data = guest.packet(spec::kVsockReadWrite);
    data.length = 5;
    guest.send(data, to_bytes("four"));
    CHECK(guest.driver.needs_reset());
  }
  SUBCASE("a payload of 4 GiB") {
    Guest guest;
    Packet data = guest.packet(spec::kVsockReadWrite);
    data.length = 0xffffffff;
    guest.send(data, to_bytes("four"));
    CHECK(guest.driver.needs_reset());
  }
  SUBCASE("43 bytes of header") {
    Guest guest;
    guest.tx.readable(std::vector<std::byte>(43)).submit();
    guest.driver.kick(spec::kVsockQueueTx);
    guest.run();
    CHECK(guest.driver.needs_reset());
  }
  SUBCASE("a receive buffer without room") {
    Guest guest(0);
    guest.rx.writable(kHeaderSize).submit();
    guest.send(spec::kVsockRequest);
    CHECK(guest.driver.needs_reset());
  }
}

TEST_CASE("V21: a storm of strays is answered as far as there is room, and kept no further") {
  Guest guest(0);
  for (int i = 0; i < 2000; i++) {
    guest.guest_port = static_cast<uint32_t>(i);
    guest.send(spec::kVsockRequest);
    CHECK(guest.device.stray_reset_count() <= Vsock::kMaxStrayResets);
  }
  CHECK(guest.device.connection_count() == 0);
  guest.post_buffers(16);
  for (int i = 0; i < 256; i++) CHECK(guest.next() == spec::kVsockReset);
  CHECK(guest.next() == 0);
}

TEST_CASE("V23: of all the host's ports the guest reaches the one that was offered, once") {
  Guest guest(64);
  auto [ours, host] = socket_pair(SOCK_STREAM).value();
  int opened = 0;
  guest.device.offer(kHostPort, std::move(ours), [&] { opened++; });
  uint32_t answers = 0;
  std::vector<uint32_t> welcome;
  auto look = [&] {
    for (uint16_t operation = guest.next(); operation != 0; operation = guest.next()) {
      answers++;
      if (operation == spec::kVsockResponse) welcome.push_back(guest.last.packet.source_port);
    }
  };
  for (uint32_t round = 0; round < 2; round++) {
    for (uint32_t port = 0; port < 65'536; port++) {
      guest.host_port = port;
      guest.guest_port = 100'000 + round;
      guest.submit(guest.packet(spec::kVsockRequest));
      if (port % 64 != 63) continue;
      guest.driver.kick(spec::kVsockQueueTx);
      guest.run();
      while (guest.tx.take_used()) {
      }
      look();
    }
  }
  CHECK(answers == 2 * 65'536);
  CHECK(welcome == std::vector<uint32_t>{kHostPort});
  CHECK(opened == 1);
  CHECK(guest.device.connection_count() == 1);
}

// --- V22 ---------------------------------------------------------------------------------------

TEST_CASE("V22: a guest that overruns its credit is reset; the host never holds more") {
  Guest guest;
  Fd host = guest.open();
  std::vector<std::byte> block(65'536, std::byte{'x'});
  uint64_t sent = 0;
  uint16_t answer = 0;
  // The socket takes some; then 256 KiB are held; then it is over.
  while (answer != spec::kVsockReset && sent < 64 * kMiB) {
    guest.send_data(block);
    sent += block.size();
    answer = guest.next();
  }
  CHECK(answer == spec::kVsockReset);
  CHECK(sent < 2 * kMiB);
  CHECK(guest.device.connection_count() == 0);
}

TEST_CASE("V22: a guest that claims 4 GiB of room and reads nothing costs no memory") {
  Guest guest(4);
  guest.repost = false;
  guest.buffer_allocation = 0xffffffff;
  Fd host = guest.open();
  REQUIRE(set_nonblocking(host.get()));
  std::vector<std::byte> block(65'536);
  uint64_t written = 0;
  for (int i = 0; i < 1000; i++) {
    ssize_t count = ::write(host.get(), block.data(), block.size());
    written += count > 0 ? static_cast<uint64_t>(count) : 0;
    guest.run();
  }
  // What the socket holds and what fitted into the guest's own buffers; no more.
  CHECK(written < kMiB);
}

TEST_CASE("V22: no more than 256 connections, and an RST beyond") {
  Guest guest;
  std::vector<Fd> hosts;
  for (uint32_t i = 0; i < Vsock::kMaxConnections; i++) {
    guest.guest_port = i;
    hosts.push_back(guest.open());
  }
  auto [ours, theirs] = socket_pair(SOCK_STREAM).value();
  guest.device.offer(kHostPort, std::move(ours));
  guest.guest_port = 1000;
  guest.send(spec::kVsockRequest);
  CHECK(guest.next() == spec::kVsockReset);
  CHECK(guest.device.connection_count() == Vsock::kMaxConnections);
  auto [more, other] = socket_pair(SOCK_STREAM).value();
  CHECK(!guest.device.connect(1, std::move(more)));
  // The offer still stands when one has gone.
  guest.guest_port = 5;
  guest.send(spec::kVsockReset);
  guest.guest_port = 1000;
  guest.send(spec::kVsockRequest);
  CHECK(guest.next() == spec::kVsockResponse);
}

TEST_CASE("V22: credit lies in a REQUEST are refused, in a RESPONSE they end the connection") {
  Guest guest;
  auto [ours, theirs] = socket_pair(SOCK_STREAM).value();
  guest.device.offer(kHostPort, std::move(ours));
  guest.consumed = 1;
  guest.send(spec::kVsockRequest);
  CHECK(guest.next() == spec::kVsockReset);

  auto [other, host] = socket_pair(SOCK_STREAM).value();
  REQUIRE(guest.device.connect(22, std::move(other)));
  CHECK(guest.next() == spec::kVsockRequest);
  guest.guest_port = 22;
  guest.host_port = guest.last.packet.source_port;
  guest.send(spec::kVsockResponse);
  CHECK(guest.next() == spec::kVsockReset);
  CHECK(read_text(host.get()) == "<end>");
}

TEST_CASE("V21: 100 000 random packets leave a device that still works") {
  Guest guest(64);
  std::mt19937 random(1);
  auto [ours, theirs] = socket_pair(SOCK_STREAM).value();
  std::vector<Fd> hosts;
  std::vector<std::byte> payload(300, std::byte{'p'});
  for (int i = 0; i < 100'000; i++) {
    if (random() % 50 == 0) {
      auto [one, other] = socket_pair(SOCK_STREAM).value();
      guest.device.offer(kHostPort + static_cast<uint32_t>(random() % 4), std::move(one));
      hosts.push_back(std::move(other));
      if (hosts.size() > 300) hosts.erase(hosts.begin(), hosts.begin() + 100);
    }
    guest.guest_port = static_cast<uint32_t>(random() % 8);
    guest.host_port = kHostPort + static_cast<uint32_t>(random() % 4);
    guest.consumed = random() % 16 == 0 ? static_cast<uint32_t>(random()) : 0;
    guest.buffer_allocation = static_cast<uint32_t>(random());
    Packet packet = guest.packet(static_cast<uint16_t>(random() % 9), random() % 4);
    packet.length = static_cast<uint32_t>(random() % 301);
    guest.submit(packet, payload);
    if (i % 4 != 3) continue;
    guest.driver.kick(spec::kVsockQueueTx);
    guest.run();
    while (guest.tx.take_used()) {
    }
    for (int j = 0; j < 8; j++) guest.next();
    CHECK(guest.device.connection_count() <= 32);
  }
  CHECK(!guest.driver.needs_reset());
  guest.buffer_allocation = 65536;
  guest.consumed = 0;
  guest.host_port = 1;
  guest.guest_port = 1;
  while (guest.next() != 0) {
  }
  Fd host = guest.open();
  guest.send_data("alive");
  CHECK(read_text(host.get()) == "alive");
}

TEST_CASE("V12: resets while another thread carries data") {
  Guest guest(32);
  std::thread thread([&] { REQUIRE(guest.loop->run()); });
  for (int i = 0; i < 200; i++) {
    std::pair<Fd, Fd> ends = socket_pair(SOCK_STREAM).value();
    Fd host = std::move(ends.second);
    guest.loop->run_on_loop([&] { guest.device.offer(kHostPort, std::move(ends.first)); });
    guest.submit(guest.packet(spec::kVsockRequest));
    Packet data = guest.packet(spec::kVsockReadWrite);
    data.length = 1000;
    for (int j = 0; j < 10; j++) guest.submit(data, std::vector<std::byte>(1000));
    guest.driver.kick(spec::kVsockQueueTx);
    write_text(host.get(), std::string(50'000, 'x'));
    guest.driver.reset();
    uint16_t used = guest.rx.used_index();
    std::this_thread::yield();
    CHECK(guest.rx.used_index() == used);
    guest.rx.clear();
    guest.tx.clear();
    guest.event.clear();
    guest.driver.start(0, {&guest.rx, &guest.tx, &guest.event});
    for (int j = 0; j < 32; j++) guest.rx.writable(kRxBuffer).submit();
  }
  guest.loop->stop();
  thread.join();
}

}  // namespace
}  // namespace hutch::virtio
