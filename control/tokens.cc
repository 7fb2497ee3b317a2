#include "control/tokens.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>

#include "control/clock.h"
#include "control/ids.h"
#include "control/problem.h"

namespace hutch::control {
namespace {

constexpr size_t kTokenBytes = 32;
constexpr size_t kTokenText = 4 + 2 * kTokenBytes;

// One answer for all that is wrong with a token, so that nothing can be learnt from it.
Problem invalid_token() {
  return Problem(
      401, "INVALID_TOKEN",
      "the access token is not valid; `hutch env` prints one, `hutch token create` makes "
      "others");
}

std::string_view bearer(std::string_view header) {
  constexpr std::string_view kScheme = "bearer ";
  bool matches = header.size() > kScheme.size() &&
                 std::equal(kScheme.begin(), kScheme.end(), header.begin(), [](char a, char b) {
                   return a == b || a == static_cast<char>(b | 0x20);
                 });
  return matches ? header.substr(kScheme.size()) : std::string_view();
}

}  // namespace

TokenHash hash_token(std::string_view text) {
  TokenHash hash;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), hash.data());
  return hash;
}

NewToken create_token(Store& store, bool personal, const std::string& name,
                      const std::vector<std::string>& organisations,
                      std::optional<int64_t> expires_ms) {
  NewToken token;
  token.text = (personal ? "ddp_" : "ddo_") + random_hex(kTokenBytes);
  token.id =
      store.add_token(hash_token(token.text), personal, name, organisations, wall_ms(), expires_ms);
  return token;
}

std::string authenticate(const Store& store, std::string_view authorization,
                         std::string_view organisation) {
  std::string_view text = bearer(authorization);
  if (text.size() != kTokenText) throw invalid_token();
  TokenHash hash = hash_token(text);
  std::optional<StoredToken> token = store.find_token(hash);
  if (!token || CRYPTO_memcmp(token->hash.data(), hash.data(), hash.size()) != 0 ||
      token->revoked_ms || (token->expires_ms && *token->expires_ms <= wall_ms()) ||
      token->organisations.empty())
    throw invalid_token();
  const std::vector<std::string>& all = token->organisations;
  if (organisation.empty()) {
    if (!token->personal) return all.front();
    throw Problem(400, "MISSING_ORG",
                  "a personal token wants an organisation; set DENO_DEPLOY_ORG or the option org");
  }
  if (std::find(all.begin(), all.end(), organisation) == all.end())
    throw Problem(404, "ORGANIZATION_NOT_FOUND",
                  "there is no organisation of this name that the token is for");
  return std::string(organisation);
}

}  // namespace hutch::control
