// Certificates of our own, for local use: a certificate authority (RFC 5280) that is made once, and
// a server's certificate that it signs and signs anew before it expires. ECDSA with P-256.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "control/config.h"

namespace hutch::control {

// PEM files.
struct CertificateFiles {
  std::string authority;    // what clients are to trust
  std::string certificate;  // the server's
  std::string key;          // of the server's, mode 0600
};

// Host names and addresses under which clients reach a server of this configuration.
std::vector<std::string> server_names(const Config& config);

// The files in `folder`, which is made when it is missing. Those that are not there, are not valid
// for 30 more days at `now_s` (seconds since 1970), or are not for all of `names` are made. Throws
// std::runtime_error with the cause.
CertificateFiles self_made_certificates(const std::string& folder,
                                        const std::vector<std::string>& names, int64_t now_s);

}  // namespace hutch::control
