#include "control/certificates.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <stdexcept>

#include "base/log.h"
#include "base/sys.h"
#include "control/ids.h"
#include "control/private_file.h"

namespace hutch::control {
namespace {

constexpr size_t kMaxFile = 64 * 1024;
constexpr int64_t kDay = 86'400;
// Clocks differ a little.
constexpr int64_t kBefore = 3600;
constexpr int64_t kServerTime = 90 * kDay, kAuthorityTime = 3650 * kDay;
// A certificate is made anew with less than this left. The authority outlives what it signs.
constexpr int64_t kServerLeft = 30 * kDay, kAuthorityLeft = kServerTime + kServerLeft;
constexpr size_t kSerialBytes = 16;
constexpr size_t kMaxHostName = 255;

template <auto Function>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    Function(object);
  }
};
using Bio = std::unique_ptr<BIO, Free<BIO_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Names = std::unique_ptr<GENERAL_NAMES, Free<GENERAL_NAMES_free>>;

[[noreturn]] void fail(const char* what) {
  char text[256] = "no memory";
  if (unsigned long code = ERR_get_error(); code != 0) ERR_error_string_n(code, text, sizeof text);
  throw std::runtime_error(fmt::format("making a certificate: {}: {}", what, text));
}

void check(bool done, const char* what) {
  if (!done) fail(what);
}

std::string text_of(const Bio& bio) {
  char* bytes = nullptr;
  long size = BIO_get_mem_data(bio.get(), &bytes);
  return {bytes, static_cast<size_t>(size)};
}

std::string pem(const X509& certificate) {
  Bio bio(BIO_new(BIO_s_mem()));
  check(bio && PEM_write_bio_X509(bio.get(), &certificate) == 1, "writing it");
  return text_of(bio);
}

std::string pem(const EVP_PKEY& key) {
  Bio bio(BIO_new(BIO_s_mem()));
  check(
      bio && PEM_write_bio_PrivateKey(bio.get(), &key, nullptr, nullptr, 0, nullptr, nullptr) == 1,
      "writing its key");
  return text_of(bio);
}

// Nothing when it is missing or is no such thing.
Bio read_pem(const std::string& path) {
  Result<std::string> text = read_file(path, kMaxFile);
  if (!text) return {};
  Bio bio(BIO_new(BIO_s_mem()));
  check(bio && BIO_write(bio.get(), text->data(), static_cast<int>(text->size())) >= 0, "memory");
  return bio;
}

Certificate read_certificate(const std::string& path) {
  Bio bio = read_pem(path);
  Certificate result(bio ? PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr) : nullptr);
  ERR_clear_error();
  return result;
}

// Keys have no password: an empty one keeps OpenSSL from asking.
Key read_key(const std::string& path) {
  Bio bio = read_pem(path);
  char empty[] = "";
  Key result(bio ? PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, empty) : nullptr);
  ERR_clear_error();
  return result;
}

struct Pair {
  Certificate certificate;
  Key key;
};

bool is_address(const std::string& name) {
  unsigned char bytes[16];
  return ::inet_pton(AF_INET, name.c_str(), bytes) == 1 ||
         ::inet_pton(AF_INET6, name.c_str(), bytes) == 1;
}

bool is_for(X509& certificate, const std::string& name) {
  return is_address(name)
             ? X509_check_ip_asc(&certificate, name.c_str(), 0) == 1
             : X509_check_host(&certificate, name.data(), name.size(), 0, nullptr) == 1;
}

// They belong together, and the certificate is valid now and for `left` more seconds.
bool is_usable(const Pair& pair, int64_t now_s, int64_t left) {
  if (!pair.certificate || !pair.key) return false;
  time_t now = now_s, later = now_s + left;
  bool usable = X509_check_private_key(pair.certificate.get(), pair.key.get()) == 1 &&
                X509_cmp_time(X509_get0_notBefore(pair.certificate.get()), &now) < 0 &&
                X509_cmp_time(X509_get0_notAfter(pair.certificate.get()), &later) > 0;
  ERR_clear_error();
  return usable;
}

void add_extension(X509& certificate, X509& issuer, int kind, const char* value) {
  X509V3_CTX context{};
  X509V3_set_ctx(&context, &issuer, &certificate, nullptr, nullptr, 0);
  std::unique_ptr<X509_EXTENSION, Free<X509_EXTENSION_free>> extension(
      X509V3_EXT_conf_nid(nullptr, &context, kind, value));
  check(extension && X509_add_ext(&certificate, extension.get(), -1) == 1, "an extension");
}

void add_names(X509& certificate, const std::vector<std::string>& names) {
  Names list(sk_GENERAL_NAME_new_null());
  check(list != nullptr, "its names");
  for (const std::string& name : names) {
    std::unique_ptr<GENERAL_NAME, Free<GENERAL_NAME_free>> entry(GENERAL_NAME_new());
    check(entry != nullptr, "a name");
    if (is_address(name)) {
      ASN1_OCTET_STRING* address = a2i_IPADDRESS(name.c_str());
      check(address != nullptr, "an address");
      GENERAL_NAME_set0_value(entry.get(), GEN_IPADD, address);
    } else {
      ASN1_IA5STRING* host = ASN1_IA5STRING_new();
      check(host != nullptr, "a host name");
      GENERAL_NAME_set0_value(entry.get(), GEN_DNS, host);
      check(ASN1_STRING_set(host, name.data(), static_cast<int>(name.size())) == 1, "a host name");
    }
    check(sk_GENERAL_NAME_push(list.get(), entry.get()) > 0, "a name");
    entry.release();
  }
  check(X509_add1_ext_i2d(&certificate, NID_subject_alt_name, list.get(), 0, 0) == 1, "its names");
}

// Not signed yet, and without extensions.
Pair new_pair(const std::string& name, int64_t now_s, int64_t lifetime) {
  Pair pair{Certificate(X509_new()), Key(EVP_EC_gen("P-256"))};
  check(pair.certificate && pair.key, "its key");
  X509* certificate = pair.certificate.get();
  std::vector<unsigned char> serial = random_bytes(kSerialBytes);
  // Positive, and as long as it is said to be.
  serial[0] = static_cast<unsigned char>((serial[0] & 0x7f) | 0x40);
  std::unique_ptr<BIGNUM, Free<BN_free>> number(
      BN_bin2bn(serial.data(), static_cast<int>(serial.size()), nullptr));
  check(number && BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) != nullptr,
        "its serial number");
  X509_NAME* subject = X509_get_subject_name(certificate);
  for (auto [field, text] : {std::pair{"O", std::string("Hutch")}, {"CN", name}})
    check(X509_NAME_add_entry_by_txt(subject, field, MBSTRING_UTF8,
                                     reinterpret_cast<const unsigned char*>(text.data()),
                                     static_cast<int>(text.size()), -1, 0) == 1,
          "its subject");
  check(X509_set_version(certificate, X509_VERSION_3) == 1 &&
            ASN1_TIME_set(X509_getm_notBefore(certificate), now_s - kBefore) != nullptr &&
            ASN1_TIME_set(X509_getm_notAfter(certificate), now_s + lifetime) != nullptr &&
            X509_set_pubkey(certificate, pair.key.get()) == 1,
        "its members");
  return pair;
}

void sign(X509& certificate, X509& issuer, EVP_PKEY& key) {
  check(X509_set_issuer_name(&certificate, X509_get_subject_name(&issuer)) == 1, "its issuer");
  check(X509_sign(&certificate, &key, EVP_sha256()) > 0, "its signature");
}

Pair new_authority(int64_t now_s) {
  // A name of its own: clients find an issuer by name.
  Pair pair = new_pair("Hutch local authority " + random_hex(4), now_s, kAuthorityTime);
  X509& certificate = *pair.certificate;
  add_extension(certificate, certificate, NID_basic_constraints, "critical,CA:TRUE,pathlen:0");
  add_extension(certificate, certificate, NID_key_usage, "critical,keyCertSign,cRLSign");
  add_extension(certificate, certificate, NID_subject_key_identifier, "hash");
  sign(certificate, certificate, *pair.key);
  return pair;
}

Pair new_server(const Pair& authority, const std::vector<std::string>& names, int64_t now_s) {
  Pair pair = new_pair("Hutch server", now_s, kServerTime);
  X509 &certificate = *pair.certificate, &issuer = *authority.certificate;
  add_extension(certificate, issuer, NID_basic_constraints, "critical,CA:FALSE");
  add_extension(certificate, issuer, NID_key_usage, "critical,digitalSignature");
  add_extension(certificate, issuer, NID_ext_key_usage, "serverAuth");
  add_extension(certificate, issuer, NID_subject_key_identifier, "hash");
  add_extension(certificate, issuer, NID_authority_key_identifier, "keyid:always");
  add_names(certificate, names);
  sign(certificate, issuer, *authority.key);
  return pair;
}

// The key first: a certificate that is there has its key.
void write_pair(const Pair& pair, const std::string& certificate, const std::string& key) {
  write_private_file(key, pem(*pair.key));
  write_private_file(certificate, pem(*pair.certificate));
}

// The host of http://HOST, http://HOST:PORT and http://[ADDRESS]:PORT.
std::string url_host(const std::string& url) {
  size_t start = url.find("://");
  if (start == std::string::npos) return "";
  std::string host = url.substr(start + 3);
  host = host.substr(0, host.find('/'));
  if (host.starts_with('[')) return host.substr(1, host.find(']') - 1);
  return host.substr(0, host.find(':'));
}

}  // namespace

std::vector<std::string> server_names(const Config& config) {
  std::vector<std::string> names{"localhost", "127.0.0.1", "::1"};
  auto add = [&](const std::string& name) {
    if (!name.empty() && std::find(names.begin(), names.end(), name) == names.end())
      names.push_back(name);
  };
  bool any = config.listen == "0.0.0.0" || config.listen == "::";
  if (!any) add(config.listen);
  char host[kMaxHostName + 1] = "";
  if (any && ::gethostname(host, kMaxHostName) == 0) add(host);
  add(url_host(config.public_url));
  return names;
}

CertificateFiles self_made_certificates(const std::string& folder,
                                        const std::vector<std::string>& names, int64_t now_s) {
  if (::mkdir(folder.c_str(), 0700) < 0 && errno != EEXIST)
    throw std::runtime_error(fail_errno(errno, "making the folder " + folder).value().text());
  std::string authority_key = folder + "/authority-key.pem";
  CertificateFiles files{folder + "/authority.pem", folder + "/server.pem",
                         folder + "/server-key.pem"};
  Pair authority{read_certificate(files.authority), read_key(authority_key)};
  if (!is_usable(authority, now_s, kAuthorityLeft)) {
    authority = new_authority(now_s);
    write_pair(authority, files.authority, authority_key);
    log_info("made the certificate authority {}", files.authority);
  }
  Pair server{read_certificate(files.certificate), read_key(files.key)};
  bool good = is_usable(server, now_s, kServerLeft) &&
              X509_verify(server.certificate.get(), authority.key.get()) == 1 &&
              std::all_of(names.begin(), names.end(), [&](const std::string& name) {
                return is_for(*server.certificate, name);
              });
  ERR_clear_error();
  if (!good) {
    write_pair(new_server(authority, names, now_s), files.certificate, files.key);
    log_info("made the server's certificate {}", files.certificate);
  }
  return files;
}

}  // namespace hutch::control
