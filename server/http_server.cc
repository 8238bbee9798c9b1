#include "server/http_server.h"

#include <civetweb.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "kernels/core/status.h"

namespace spotd::server {
namespace {

using PageFunction = std::function<HttpPage()>;

const char* ReasonPhrase(int code) {
  switch (code) {
    case 200:
      return "OK";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    default:
      return "Service Unavailable";
  }
}

int Send(mg_connection* connection, const HttpPage& page, bool with_body) {
  mg_printf(connection,
            "HTTP/1.1 %d %s\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
            "Content-Length: %zu\r\nConnection: close\r\n\r\n",
            page.code, ReasonPhrase(page.code), page.body.size());
  if (with_body) mg_write(connection, page.body.data(), page.body.size());
  return page.code;
}

// Civetweb's callback; `data` is the PageFunction.
int HandleRequest(mg_connection* connection, void* data) {
  const std::string_view method = mg_get_request_info(connection)->request_method;
  if (method != "GET" && method != "HEAD") return Send(connection, {405, "GET only\n"}, true);
  return Send(connection, (*static_cast<PageFunction*>(data))(), method == "GET");
}

// Civetweb reports why it cannot listen only through this callback; user_data is the string of
// HttpServer::Impl.
int CaptureError(const mg_connection* connection, const char* message) {
  auto* error = static_cast<std::string*>(mg_get_user_data(mg_get_context(connection)));
  if (error != nullptr) *error = message;
  return 1;
}

}  // namespace

struct HttpServer::Impl {
  PageFunction metrics, live, ready, not_found;
  std::string start_error;
  mg_context* context = nullptr;
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() {
  mg_stop(impl_->context);
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& address,
                                                              Pages pages) {
  auto impl = std::make_unique<Impl>();
  impl->metrics = std::move(pages.metrics);
  impl->live = std::move(pages.live);
  impl->ready = std::move(pages.ready);
  impl->not_found = [] { return HttpPage{404, "try /metrics, /livez or /readyz\n"}; };

  mg_callbacks callbacks{};
  callbacks.log_message = &CaptureError;
  const char* options[] = {"listening_ports",    address.c_str(), "num_threads", "2",
                           "request_timeout_ms", "10000",         nullptr};
  impl->context = mg_start(&callbacks, &impl->start_error, options);
  if (impl->context == nullptr) {
    return FailedPrecondition("cannot serve HTTP on ", address, ": ",
                              impl->start_error.empty() ? "no reason given" : impl->start_error);
  }
  for (const auto& [path, page] : {std::pair{"/metrics$", &impl->metrics},
                                   {"/livez$", &impl->live},
                                   {"/readyz$", &impl->ready},
                                   {"/healthz$", &impl->ready},
                                   {"**", &impl->not_found}}) {
    mg_set_request_handler(impl->context, path, &HandleRequest, page);
  }
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

int HttpServer::port() const {
  mg_server_port port{};
  return mg_get_server_ports(impl_->context, 1, &port) == 1 ? port.port : 0;
}

}  // namespace spotd::server
