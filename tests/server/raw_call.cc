#include "tests/server/raw_call.h"

#include <grpcpp/generic/generic_stub.h>

#include "kernels/core/check.h"

namespace spotd::testing {
namespace {

grpc::ByteBuffer ToBuffer(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

std::string ToString(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  SPOTD_CHECK(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

// Waits for the operation that was just started.
bool Next(grpc::CompletionQueue* queue) {
  void* tag = nullptr;
  bool ok = false;
  SPOTD_CHECK(queue->Next(&tag, &ok));
  return ok;
}

}  // namespace

grpc::Status RawUnary(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                      const std::string& request, std::vector<std::string>* responses) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareCall(&context, method, &queue);
  call->StartCall(nullptr);
  Next(&queue);
  call->WriteLast(ToBuffer(request), {}, nullptr);
  Next(&queue);
  grpc::ByteBuffer response;
  for (call->Read(&response, nullptr); Next(&queue); call->Read(&response, nullptr)) {
    if (responses != nullptr) responses->push_back(ToString(response));
  }
  grpc::Status status;
  call->Finish(&status, nullptr);
  Next(&queue);
  return status;
}

}  // namespace spotd::testing
