#include "net/name_table.h"

#include "policy/host_name.h"

namespace hutch::net {

void NameTable::touch(Names::iterator entry, uint64_t now_ns) {
  entry->used_ns = now_ns;
  names_.splice(names_.end(), names_, entry);
}

bool NameTable::make_room(uint64_t now_ns) {
  if (names_.size() < kMaxNames) return true;
  for (auto entry = names_.begin(); entry != names_.end() && now_ns - entry->used_ns >= kRestNs;
       ++entry) {
    if (entry->held != 0) continue;
    by_name_.erase(entry->name);
    by_address_.erase(entry->address);
    names_.erase(entry);
    return true;
  }
  return false;
}

void NameTable::insert(std::string name, uint32_t address, uint64_t now_ns) {
  names_.push_back({std::move(name), address, 0, now_ns});
  auto entry = std::prev(names_.end());
  by_name_.emplace(entry->name, entry);
  by_address_.emplace(address, entry);
}

std::optional<IpAddress> NameTable::assign(std::string_view name, uint64_t now_ns) {
  if (auto found = by_name_.find(name); found != by_name_.end()) {
    touch(found->second, now_ns);
    return IpAddress::v4(found->second->address);
  }
  if (!make_room(now_ns)) return std::nullopt;
  // Round the whole range, so that one that was given up comes again as late as possible.
  uint32_t address = 0;
  do {
    address = kFirstAddress + next_;
    next_ = next_ + 1 < kAddresses - 1 ? next_ + 1 : kFirstIndex;
  } while (by_address_.contains(address));
  insert(std::string(name), address, now_ns);
  return IpAddress::v4(address);
}

std::optional<std::string> NameTable::find(const IpAddress& address, uint64_t now_ns) {
  if (!address.is_v4()) return std::nullopt;
  auto found = by_address_.find(address.v4_value());
  if (found == by_address_.end()) return std::nullopt;
  touch(found->second, now_ns);
  return found->second->name;
}

void NameTable::hold(const IpAddress& address) {
  if (auto found = by_address_.find(address.v4_value()); found != by_address_.end())
    found->second->held++;
}

void NameTable::release(const IpAddress& address, uint64_t now_ns) {
  auto found = by_address_.find(address.v4_value());
  if (found == by_address_.end() || found->second->held == 0) return;
  found->second->held--;
  touch(found->second, now_ns);
}

std::vector<NameTable::Entry> NameTable::save() const {
  std::vector<Entry> entries;
  for (const Name& name : names_) entries.push_back({name.name, name.address});
  return entries;
}

Result<void> NameTable::restore(const std::vector<Entry>& entries, uint64_t now_ns) {
  if (!names_.empty()) return fail("names are already there");
  if (entries.size() > kMaxNames) return fail(fmt::format("{} names are too many", entries.size()));
  for (const Entry& entry : entries) {
    if (policy::canonical_host_name(entry.name) != entry.name ||
        entry.address < kFirstAddress + kFirstIndex ||
        entry.address >= kFirstAddress + kAddresses - 1 || by_name_.contains(entry.name) ||
        by_address_.contains(entry.address)) {
      *this = NameTable();
      return fail("a saved name is broken or there twice");
    }
    insert(entry.name, entry.address, now_ns);
    next_ = std::max(next_, entry.address - kFirstAddress + 1);
  }
  if (next_ >= kAddresses - 1) next_ = kFirstIndex;
  return {};
}

}  // namespace hutch::net
