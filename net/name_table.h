// NameTable: the addresses that stand for names. The DNS of a sandbox answers each name that its
// policy knows with an address of its own out of 198.18.0.0/15 (RFC 2544: for benchmarks, never on
// the Internet), so that each connection says for which name it was made, whatever is spoken on it.
//
// Times are monotonic_ns(). The net thread only.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/ip_address.h"
#include "base/result.h"

namespace hutch::net {

class NameTable {
 public:
  static constexpr uint32_t kFirstAddress = 0xc6120000;  // 198.18.0.0
  static constexpr uint32_t kAddresses = 1 << 17;
  static constexpr uint32_t kFirstIndex = 2;
  static constexpr size_t kMaxNames = 4096;
  // A guest remembers an address for the 60 s that it was told to, and programs for longer: until
  // this long after its last use it stands for its name.
  static constexpr uint64_t kRestNs = 600'000'000'000;

  // One name as a snapshot keeps it.
  struct Entry {
    std::string name;
    uint32_t address = 0;
    bool operator==(const Entry&) const = default;
  };

  // The address of a canonical name, the same as long as it is used. Nothing when the table is
  // full of names that are in use: an address never comes to stand for another name while somebody
  // may still mean the first.
  std::optional<IpAddress> assign(std::string_view name, uint64_t now_ns);
  bool has(std::string_view name) const { return by_name_.contains(name); }
  // The name that an address stands for; nothing for any other address. It is then in use.
  std::optional<std::string> find(const IpAddress& address, uint64_t now_ns);
  // A connection to it is open: it keeps its name until as many calls of release().
  void hold(const IpAddress& address);
  void release(const IpAddress& address, uint64_t now_ns);

  std::vector<Entry> save() const;
  // Into an empty table. An error when entries are not what save() gives: the file is not trusted.
  Result<void> restore(const std::vector<Entry>& entries, uint64_t now_ns);
  size_t size() const { return by_address_.size(); }

 private:
  struct Name {
    std::string name;
    uint32_t address = 0;
    uint32_t held = 0;
    uint64_t used_ns = 0;
  };
  using Names = std::list<Name>;  // the least recently used first

  void touch(Names::iterator entry, uint64_t now_ns);
  bool make_room(uint64_t now_ns);
  void insert(std::string name, uint32_t address, uint64_t now_ns);

  Names names_;
  std::unordered_map<std::string_view, Names::iterator> by_name_;  // views of the list's strings
  std::unordered_map<uint32_t, Names::iterator> by_address_;
  // .0 looks like a network's own address to some programs; .1 is the image's resolver.
  uint32_t next_ = kFirstIndex;
};

}  // namespace hutch::net
