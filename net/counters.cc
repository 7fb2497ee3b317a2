#include "net/counters.h"

namespace hutch::net {

std::string_view drop_name(Drop drop) {
  static constexpr std::string_view kNames[] = {
#define HUTCH_NET_DROP(name, text) text,
      HUTCH_NET_DROPS(HUTCH_NET_DROP)
#undef HUTCH_NET_DROP
  };
  return drop < Drop::kCount ? kNames[static_cast<size_t>(drop)] : "unknown";
}

}  // namespace hutch::net
