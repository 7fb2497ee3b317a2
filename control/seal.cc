#include "control/seal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <vector>

#include "base/fd.h"
#include "base/sys.h"
#include "control/private_file.h"

namespace hutch::control {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kSeal = "/seal";
constexpr size_t kPage = 4096;
constexpr size_t kChunk = 256 * kPage;
constexpr size_t kMaxSeal = 1 << 20;
constexpr size_t kMacText = 64;

std::string hex(const unsigned char* bytes, size_t size) {
  std::string text;
  for (size_t i = 0; i < size; i++) text += fmt::format("{:02x}", bytes[i]);
  return text;
}

std::string mac_of(const SealKey& key, std::string_view text) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (::HMAC(::EVP_sha256(), key.data(), static_cast<int>(key.size()),
             reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest,
             &size) == nullptr)
    throw std::runtime_error("OpenSSL has no HMAC-SHA256");
  return hex(digest, size);
}

class Digest {
 public:
  Digest() : context_(::EVP_MD_CTX_new(), ::EVP_MD_CTX_free) {
    if (::EVP_DigestInit_ex(context_.get(), ::EVP_sha256(), nullptr) != 1)
      throw std::runtime_error("OpenSSL has no SHA-256");
  }
  void add(const void* data, size_t size) { ::EVP_DigestUpdate(context_.get(), data, size); }
  std::string end() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    ::EVP_DigestFinal_ex(context_.get(), digest, &size);
    return hex(digest, size);
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

bool is_zero(const char* data, size_t size) {
  return size == 0 || (data[0] == 0 && std::memcmp(data, data + 1, size - 1) == 0);
}

[[noreturn]] void fail_with(const char* what, const std::string& path) {
  throw std::runtime_error(fmt::format("{} {}: {}", what, path, std::strerror(errno)));
}

// {size, sha256}. `sync`: it is on the disk first.
json describe_file(const std::string& path, bool sync) {
  Fd file = value_or_throw(open_file(path, O_RDONLY | O_NOFOLLOW));
  struct stat status {};
  if (::fstat(file.get(), &status) < 0) fail_with("reading", path);
  if (!S_ISREG(status.st_mode)) throw std::runtime_error(path + " is no regular file");
  if (sync && ::fsync(file.get()) < 0) fail_with("writing", path);
  Digest digest;
  std::vector<char> buffer(kChunk);
  for (off_t at = 0; at < status.st_size;) {
    off_t data = ::lseek(file.get(), at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // the rest is a hole
    if (data < 0) fail_with("reading", path);
    at = data / static_cast<off_t>(kPage) * static_cast<off_t>(kPage);
    ssize_t got = 0;
    size_t have = 0;
    while (have < buffer.size() &&
           (got = ::pread(file.get(), buffer.data() + have, buffer.size() - have,
                          at + static_cast<off_t>(have))) > 0)
      have += static_cast<size_t>(got);
    if (got < 0) fail_with("reading", path);
    if (have == 0) break;  // it was made shorter meanwhile, which its size will show
    for (size_t start = 0; start < have; start += kPage) {
      size_t size = std::min(kPage, have - start);
      if (is_zero(buffer.data() + start, size)) continue;
      uint64_t page = (static_cast<uint64_t>(at) + start) / kPage;
      uint8_t number[8];
      for (uint8_t& byte : number) {
        byte = static_cast<uint8_t>(page);
        page >>= 8;
      }
      digest.add(number, sizeof number);
      digest.add(buffer.data() + start, size);
    }
    at += static_cast<off_t>(have);
  }
  return {{"size", status.st_size}, {"sha256", digest.end()}};
}

std::vector<std::string> files_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if ("/" + entry.path().filename().string() != kSeal) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

void sync_folder(const std::string& folder) {
  Fd file = value_or_throw(open_file(folder, O_RDONLY | O_DIRECTORY));
  if (::fsync(file.get()) < 0) fail_with("writing", folder);
}

// The whole object, whose MAC is right.
json read_object(const std::string& folder, const SealKey& key) {
  Result<std::string> text = read_file(folder + kSeal, kMaxSeal);
  if (!text) throw std::runtime_error("it has no seal: it is not whole");
  std::string_view all = *text;
  std::string mac = all.size() > kMacText ? mac_of(key, all.substr(kMacText + 1)) : "";
  if (mac.size() != kMacText || all[kMacText] != '\n' ||
      ::CRYPTO_memcmp(mac.data(), all.data(), kMacText) != 0)
    throw std::runtime_error(
        "its seal is damaged, or of another server: only the data folder that made it can use it");
  json object = json::parse(all.substr(kMacText + 1), nullptr, false);
  if (!object.is_object() || !object.contains("files") || !object["files"].is_object() ||
      !object.contains("about"))
    throw std::runtime_error("its seal is of another version of Hutch");
  return object;
}

}  // namespace

std::string sealed_text(const SealKey& key, const std::string& text) {
  return mac_of(key, text) + "\n" + text;
}

void seal_folder(const std::string& folder, const SealKey& key, const json& about) {
  json files = json::object();
  for (const std::string& name : files_in(folder))
    files[name] = describe_file(folder + "/" + name, true);
  std::string text = json{{"files", files}, {"about", about}}.dump(2) + "\n";
  write_private_file(folder + kSeal, sealed_text(key, text));
  sync_folder(folder);
}

json read_seal(const std::string& folder, const SealKey& key) {
  return read_object(folder, key)["about"];
}

void check_sealed_files(const std::string& folder, const SealKey& key) {
  json files = read_object(folder, key)["files"];
  for (const auto& [name, sealed] : files.items()) {
    if (name.find('/') != std::string::npos || !sealed.is_object())
      throw std::runtime_error("its seal is of another version of Hutch");
    json found;
    try {
      found = describe_file(folder + "/" + name, false);
    } catch (const std::exception& error) {
      throw std::runtime_error(fmt::format("its file {} cannot be read: {}", name, error.what()));
    }
    json size = sealed.value("size", json());
    if (found["size"] != size)
      throw std::runtime_error(fmt::format("its file {} has {} bytes and not {}", name,
                                           found["size"].dump(), size.dump()));
    if (found != sealed)
      throw std::runtime_error(
          fmt::format("its file {} is damaged: what it holds is not what was sealed", name));
  }
}

}  // namespace hutch::control
