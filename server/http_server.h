// The HTTP side for operators: /metrics, /livez, /readyz and /healthz (as /readyz). Plain text, GET
// only.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace spotd::server {

struct HttpPage {
  int code = 200;
  std::string body;
};

class HttpServer {
 public:
  // Called from the server's threads, several at a time.
  struct Pages {
    std::function<HttpPage()> metrics;
    std::function<HttpPage()> live;
    std::function<HttpPage()> ready;
  };

  // `address` is HOST:PORT. FAILED_PRECONDITION says why it cannot listen there.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& address, Pages pages);
  ~HttpServer();

  int port() const;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace spotd::server
