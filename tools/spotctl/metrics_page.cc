#include "tools/spotctl/metrics_page.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdlib>
#include <limits>
#include <memory>

#include "kernels/core/status.h"

namespace spotd::spotctl {
namespace {

constexpr timeval kTimeout = {5, 0};
constexpr size_t kMaxPage = 64u << 20;

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

absl::Status NoMetrics(const std::string& address, std::string_view why) {
  return absl::UnavailableError(Concat("no metrics at http://", address, "/metrics: ", why));
}

int ConnectTo(const addrinfo& address) {
  const int fd = socket(address.ai_family, address.ai_socktype | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kTimeout, sizeof(kTimeout));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &kTimeout, sizeof(kTimeout));
  if (connect(fd, address.ai_addr, address.ai_addrlen) == 0) return fd;
  close(fd);
  return -1;
}

// To the first of a host's addresses at which somebody listens; -1 where there is none.
int Connect(const addrinfo* addresses) {
  for (; addresses != nullptr; addresses = addresses->ai_next) {
    if (const int fd = ConnectTo(*addresses); fd >= 0) return fd;
  }
  return -1;
}

// {name="value",...}: `text` starts behind the brace; false when it is malformed. `rest` is what
// follows.
bool ParseLabels(std::string_view text, MetricsPage::Labels* labels, std::string_view* rest) {
  while (!text.empty() && text[0] != '}') {
    const size_t equals = text.find("=\"");
    if (equals == text.npos) return false;
    std::string value;
    size_t at = equals + 2;
    for (; at < text.size() && text[at] != '"'; ++at) {
      if (text[at] == '\\' && at + 1 < text.size()) ++at;
      value += text[at];
    }
    if (at >= text.size()) return false;
    (*labels)[std::string(text.substr(0, equals))] = value;
    text.remove_prefix(at + 1);
    if (!text.empty() && text[0] == ',') text.remove_prefix(1);
  }
  if (text.empty()) return false;
  *rest = text.substr(1);
  return true;
}

}  // namespace

absl::StatusOr<std::string> FetchMetrics(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == address.npos) return InvalidArgument("\"", address, "\" is not HOST:PORT");
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found) != 0) {
    return NoMetrics(address, "unknown host");
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, &freeaddrinfo);
  const Socket socket(Connect(addresses.get()));
  if (socket.fd() < 0) return NoMetrics(address, "nobody listens there");

  const std::string request =
      "GET /metrics HTTP/1.0\r\nHost: " + address + "\r\nConnection: close\r\n\r\n";
  std::string reply;
  if (send(socket.fd(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return NoMetrics(address, "the connection broke");
  }
  char buffer[1 << 16];
  ssize_t count = 0;
  while ((count = recv(socket.fd(), buffer, sizeof(buffer), 0)) > 0 && reply.size() < kMaxPage) {
    reply.append(buffer, static_cast<size_t>(count));
  }
  const size_t body = reply.find("\r\n\r\n");
  if (count < 0 || body == reply.npos) return NoMetrics(address, "no reply");
  if (reply.find(" 200 ") > reply.find("\r\n")) {
    return NoMetrics(address, reply.substr(0, reply.find("\r\n")));
  }
  return reply.substr(body + 4);
}

MetricsPage MetricsPage::Parse(std::string_view text) {
  MetricsPage page;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const size_t name_end = line.find_first_of("{ ");
    if (line.empty() || line[0] == '#' || name_end == line.npos) continue;
    const std::string name(line.substr(0, name_end));
    Sample sample;
    std::string_view rest = line.substr(name_end);
    if (rest[0] == '{' && !ParseLabels(rest.substr(1), &sample.labels, &rest)) continue;
    sample.value = std::strtod(std::string(rest).c_str(), nullptr);
    page.samples_[name].push_back(std::move(sample));
  }
  return page;
}

const std::vector<MetricsPage::Sample>& MetricsPage::Samples(const std::string& name) const {
  static const std::vector<Sample> none;
  const auto found = samples_.find(name);
  return found == samples_.end() ? none : found->second;
}

double MetricsPage::Sum(const std::string& name, const Labels& labels) const {
  double sum = 0;
  for (const Sample& sample : Samples(name)) {
    bool matches = true;
    for (const auto& [key, value] : labels) {
      const auto label = sample.labels.find(key);
      matches = matches && label != sample.labels.end() && label->second == value;
    }
    if (matches) sum += sample.value;
  }
  return sum;
}

std::string MetricsPage::Label(const std::string& name, const std::string& label) const {
  for (const Sample& sample : Samples(name)) {
    const auto found = sample.labels.find(label);
    if (sample.value != 0 && found != sample.labels.end()) return found->second;
  }
  return "";
}

double QuantileBetween(const MetricsPage& before, const MetricsPage& after, const std::string& name,
                       double q) {
  std::map<double, double> counted;  // upper bound -> how many are at most that
  for (const auto& [page, sign] : {std::pair{&after, 1.0}, {&before, -1.0}}) {
    for (const MetricsPage::Sample& bucket : page->Samples(name + "_bucket")) {
      const auto bound = bucket.labels.find("le");
      if (bound == bucket.labels.end()) continue;
      const double le = bound->second == "+Inf" ? std::numeric_limits<double>::infinity()
                                                : std::strtod(bound->second.c_str(), nullptr);
      counted[le] += sign * bucket.value;
    }
  }
  if (counted.empty() || counted.rbegin()->second <= 0) return 0;
  const double rank = q * counted.rbegin()->second;
  double lower = 0, below = 0;
  for (const auto& [le, count] : counted) {
    if (count >= rank) {
      if (le == std::numeric_limits<double>::infinity()) return lower;
      return lower + (le - lower) * (rank - below) / std::max(1e-9, count - below);
    }
    lower = le;
    below = count;
  }
  return lower;
}

}  // namespace spotd::spotctl
