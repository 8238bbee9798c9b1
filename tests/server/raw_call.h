// Calls with bytes of our choosing, for requests that no client library would send.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

namespace spotd::testing {

// Sends one message and reads until the end; works for unary and streaming methods. The messages
// received go to `responses` when it is not null.
grpc::Status RawUnary(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                      const std::string& request, std::vector<std::string>* responses = nullptr);

}  // namespace spotd::testing
