// The state machine of a connection, without sockets.
#include "virtio/vsock/connection.h"

#include <doctest/doctest.h>

#include <random>

#include "tests/guest_driver.h"

namespace hutch::virtio::vsock {
namespace {

using Verdict = Connection::Verdict;
using testing::to_bytes;
using testing::to_text;

Packet from_guest(uint16_t operation, uint32_t length = 0, uint32_t flags = 0,
                  uint32_t buffer_allocation = 65536, uint32_t forwarded_count = 0) {
  return {.length = length,
          .operation = operation,
          .flags = flags,
          .buffer_allocation = buffer_allocation,
          .forwarded_count = forwarded_count};
}

// An established connection with nothing due.
Connection established(uint32_t buffer_allocation = 65536) {
  Connection connection =
      Connection::accepted(from_guest(spec::kVsockRequest, 0, 0, buffer_allocation));
  CHECK(connection.next_control()->operation == spec::kVsockResponse);
  return connection;
}

// Takes `count` bytes of payload into the buffer.
void hold(Connection& connection, uint32_t count) {
  CHECK(connection.receive(from_guest(spec::kVsockReadWrite, count)) == Verdict::kPayload);
  std::ranges::fill(connection.extend(count), std::byte{'x'});
}

TEST_CASE("a connection that the host opens is established by the guest's response") {
  Connection connection = Connection::requested();
  CHECK(connection.credit() == 0);
  CHECK(connection.next_control()->operation == spec::kVsockRequest);
  CHECK(!connection.next_control());
  CHECK(connection.receive(from_guest(spec::kVsockResponse)) == Verdict::kGoOn);
  CHECK(connection.is_established());
  CHECK(connection.credit() == 65536);
}

TEST_CASE("V21: every operation in every state has its verdict") {
  struct Row {
    uint16_t operation;
    Verdict requested, established;
  };
  const Row rows[] = {
      {0, Verdict::kBroken, Verdict::kBroken},
      {spec::kVsockRequest, Verdict::kBroken, Verdict::kBroken},
      {spec::kVsockResponse, Verdict::kGoOn, Verdict::kBroken},
      {spec::kVsockReset, Verdict::kEnded, Verdict::kEnded},
      {spec::kVsockShutdown, Verdict::kBroken, Verdict::kGoOn},
      {spec::kVsockReadWrite, Verdict::kBroken, Verdict::kPayload},
      {spec::kVsockCreditUpdate, Verdict::kBroken, Verdict::kGoOn},
      {spec::kVsockCreditRequest, Verdict::kBroken, Verdict::kGoOn},
      {8, Verdict::kBroken, Verdict::kBroken},
      {0xffff, Verdict::kBroken, Verdict::kBroken},
  };
  for (const Row& row : rows) {
    Connection requested = Connection::requested();
    CHECK(requested.receive(from_guest(row.operation)) == row.requested);
    Connection open = established();
    CHECK(open.receive(from_guest(row.operation)) == row.established);
  }
}

TEST_CASE("V21: no data after the guest said that there is none") {
  Connection connection = established();
  CHECK(connection.receive(from_guest(spec::kVsockShutdown, 0, spec::kVsockShutdownSend)) ==
        Verdict::kGoOn);
  CHECK(connection.guest_is_drained());
  CHECK(connection.credit() == 65536);
  CHECK(connection.receive(from_guest(spec::kVsockReadWrite, 1)) == Verdict::kBroken);
}

TEST_CASE("both directions shut by the guest: an RST once all its bytes are forwarded") {
  Connection connection = established();
  hold(connection, 10);
  CHECK(connection.receive(from_guest(spec::kVsockShutdown, 0,
                                      spec::kVsockShutdownSend | spec::kVsockShutdownReceive)) ==
        Verdict::kGoOn);
  CHECK(connection.credit() == 0);
  CHECK(!connection.next_control());
  connection.forwarded(10, false);
  CHECK(connection.next_control()->operation == spec::kVsockReset);
}

TEST_CASE("a guest that forgets an orderly ended connection does not cut off its last bytes") {
  Connection connection = established();
  hold(connection, 10);
  connection.receive(from_guest(spec::kVsockShutdown, 0, 3));
  CHECK(connection.receive(from_guest(spec::kVsockReset)) == Verdict::kGoOn);
  CHECK(connection.is_lingering());
  CHECK(connection.buffered().size() == 10);
  CHECK(connection.credit() == 0);
  connection.forwarded(10, false);
  connection.writer_gone();
  CHECK(!connection.next_control());
}

TEST_CASE("a reset without an orderly end is an end") {
  Connection connection = established();
  hold(connection, 10);
  CHECK(connection.receive(from_guest(spec::kVsockReset)) == Verdict::kEnded);
}

TEST_CASE("the host's ends are told to the guest, each in its turn") {
  Connection connection = established();
  connection.writer_gone();
  std::optional<Packet> first = connection.next_control();
  CHECK(first->operation == spec::kVsockShutdown);
  CHECK(first->flags == spec::kVsockShutdownSend);
  connection.writer_gone();
  CHECK(!connection.next_control());
  hold(connection, 10);
  connection.reader_gone();
  CHECK(connection.next_control()->flags ==
        (spec::kVsockShutdownSend | spec::kVsockShutdownReceive));
  CHECK(connection.buffered().empty());
}

TEST_CASE("V22: the guest may send what it was told, and not one byte more") {
  Connection connection = established();
  hold(connection, Connection::kBufferSize - 1);
  CHECK(connection.receive(from_guest(spec::kVsockReadWrite, 2)) == Verdict::kBroken);
  hold(connection, 1);
  CHECK(connection.receive(from_guest(spec::kVsockReadWrite, 1)) == Verdict::kBroken);
  CHECK(connection.receive(from_guest(spec::kVsockReadWrite, 0xffffffff)) == Verdict::kBroken);
  CHECK(connection.buffered().size() == Connection::kBufferSize);
}

TEST_CASE("V22: freed room is told in steps, and on request") {
  Connection connection = established();
  hold(connection, Connection::kBufferSize);
  connection.forwarded(Connection::kBufferSize / 4 - 1, false);
  CHECK(!connection.has_control());
  connection.forwarded(1, false);
  Packet update = *connection.next_control();
  CHECK(update.operation == spec::kVsockCreditUpdate);
  connection.stamp(update);
  CHECK(update.buffer_allocation == Connection::kBufferSize);
  CHECK(update.forwarded_count == Connection::kBufferSize / 4);
  CHECK(!connection.has_control());
  CHECK(connection.receive(from_guest(spec::kVsockCreditRequest)) == Verdict::kGoOn);
  CHECK(connection.next_control()->operation == spec::kVsockCreditUpdate);
}

TEST_CASE("bytes come out of the buffer in order, whatever the sizes") {
  Connection connection = established();
  std::mt19937 random(1);
  uint32_t in = 0, out = 0;
  uint64_t wrong = 0;
  for (int i = 0; i < 20'000; i++) {
    auto free = static_cast<uint32_t>(Connection::kBufferSize - connection.buffered().size());
    auto count = static_cast<uint32_t>(random() % 5000);
    if (count <= free) {
      CHECK(connection.receive(from_guest(spec::kVsockReadWrite, count)) == Verdict::kPayload);
      for (std::byte& byte : connection.extend(count)) byte = static_cast<std::byte>(in++ % 251);
    }
    size_t taken = std::min<size_t>(random() % 5000, connection.buffered().size());
    for (std::byte byte : connection.buffered().first(taken))
      wrong += byte != static_cast<std::byte>(out++ % 251);
    connection.forwarded(taken, false);
  }
  CHECK(wrong == 0);
  CHECK(out > 1'000'000);
}

TEST_CASE("V22: the guest is never sent more than it has room for") {
  Connection connection = established(1000);
  CHECK(connection.credit() == 1000);
  connection.sent(600);
  CHECK(connection.credit() == 400);
  // It consumes 500; then makes its buffer smaller than what is in flight.
  connection.receive(from_guest(spec::kVsockCreditUpdate, 0, 0, 1000, 500));
  CHECK(connection.credit() == 900);
  connection.receive(from_guest(spec::kVsockCreditUpdate, 0, 0, 50, 500));
  CHECK(connection.credit() == 0);
  connection.starved();
  CHECK(connection.next_control()->operation == spec::kVsockCreditRequest);
  connection.starved();
  CHECK(!connection.next_control());
  connection.receive(from_guest(spec::kVsockCreditUpdate, 0, 0, 150, 550));
  CHECK(connection.credit() == 100);
}

TEST_CASE("V22: a count that runs ahead of what was sent breaks the connection") {
  for (uint32_t ahead : {1u, 100u, 0x40000000u, 0x7fffffffu, 0x80000000u}) {
    Connection connection = established();
    connection.sent(100);
    CHECK(connection.receive(from_guest(spec::kVsockCreditUpdate, 0, 0, 65536, 100 + ahead)) ==
          Verdict::kBroken);
  }
}

TEST_CASE("V22: an older count, from a packet that was overtaken, takes no credit back") {
  Connection connection = established(1000);
  connection.sent(800);
  connection.receive(from_guest(spec::kVsockCreditUpdate, 0, 0, 1000, 700));
  CHECK(connection.receive(from_guest(spec::kVsockCreditUpdate, 0, 0, 1000, 300)) ==
        Verdict::kGoOn);
  CHECK(connection.credit() == 900);
}

TEST_CASE("V22: counters wrap at 2^32, and a buffer of 4 GiB is taken for less") {
  Connection connection = established(0xffffffff);
  uint32_t consumed = 0;
  for (int i = 0; i < 100; i++) {
    CHECK(connection.credit() <= 1u << 30);
    connection.sent(0x1000'0000);
    consumed += 0x1000'0000;
    CHECK(connection.receive(from_guest(spec::kVsockCreditUpdate, 0, 0, 0xffffffff, consumed)) ==
          Verdict::kGoOn);
  }
  CHECK(connection.credit() == 1u << 30);

  Connection receiver = established();
  for (uint64_t total = 0; total < 5ull << 30; total += 64 * 1024) {
    CHECK(receiver.receive(from_guest(spec::kVsockReadWrite, 64 * 1024)) == Verdict::kPayload);
    receiver.forwarded(64 * 1024, true);
    Packet update = receiver.next_control().value_or(Packet());
    receiver.stamp(update);
    CHECK(update.forwarded_count == static_cast<uint32_t>(total + 64 * 1024));
  }
}

TEST_CASE("V22: bytes for a reader that has gone cost no memory and no credit") {
  Connection connection = established();
  hold(connection, 1000);
  connection.reader_gone();
  for (int i = 0; i < 1000; i++) {
    CHECK(connection.receive(from_guest(spec::kVsockReadWrite, 65536)) == Verdict::kPayload);
    connection.forwarded(65536, true);
  }
  CHECK(connection.buffered().empty());
}

}  // namespace
}  // namespace hutch::virtio::vsock
