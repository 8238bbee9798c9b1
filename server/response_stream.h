// The sending half of a streaming call: a mailbox that the engine thread fills and a writer thread
// empties.
//
// The engine thread only stores what is new under a short lock and never touches the network. At
// most one write is outstanding; what arrives meanwhile is merged by the derived class into the
// next message, so memory per call is bounded by what the derived class accepts. The object keeps
// itself alive until gRPC is done with the call.
//
// `Reactor` is grpc::ServerWriteReactor<ByteBuffer> or grpc::ServerBidiReactor<ByteBuffer,
// ByteBuffer>.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "kernels/core/check.h"
#include "server/call.h"
#include "server/service_context.h"

namespace spotd::server {

template <typename Reactor>
class ResponseStream : public Reactor,
                       public std::enable_shared_from_this<ResponseStream<Reactor>> {
 public:
  // The client went away, cancelled, or its deadline passed.
  void OnCancel() override { cancel_->Cancel(); }

  void OnWriteDone(bool ok) override {
    {
      std::lock_guard lock(mutex_);
      writing_ = false;
      if (!ok) broken_ = true;
    }
    if (!ok) cancel_->Cancel();
    Pump();
  }

  void OnDone() override { self_.reset(); }

 protected:
  ResponseStream(const ServiceContext& context, std::string_view method,
                 grpc::CallbackServerContext* call)
      : context_(context), call_(context, method, call) {}

  // Once, before anything is sent.
  void KeepAlive() { self_ = this->shared_from_this(); }

  // The next message to send, or false when there is none. Called with mutex_ held.
  virtual bool TakeMessage(grpc::ByteBuffer* out) = 0;

  // Lets the writer thread look for messages. Any thread, mutex_ not held.
  void Poke() {
    {
      std::lock_guard lock(mutex_);
      if (std::exchange(poked_, true)) return;
    }
    const bool queued = context_.writers->Submit([self = this->shared_from_this()] {
      {
        std::lock_guard lock(self->mutex_);
        self->poked_ = false;
      }
      self->Pump();
    });
    SPOTD_CHECK(queued);  // the writers' queue is not bounded: it holds a call at most once
  }

  // Ends the call after what TakeMessage still has; once. Nothing may be stored afterwards.
  // `finish` gives the status; it runs on the writer thread, because it logs. mutex_ not held.
  void End(std::function<grpc::Status()> finish) {
    {
      std::lock_guard lock(mutex_);
      finish_ = std::move(finish);
    }
    Poke();
  }

  const ServiceContext& context_;
  Call call_;
  const std::shared_ptr<engine::CancelToken> cancel_ = std::make_shared<engine::CancelToken>();
  std::mutex mutex_;

 private:
  // Starts the next write, or finishes. Writes and the finish never overlap: whoever sets writing_
  // or finished_ under the lock is the one to call gRPC.
  void Pump() {
    std::function<grpc::Status()> finish;
    {
      std::lock_guard lock(mutex_);
      if (writing_ || finished_) return;
      if (!broken_ && TakeMessage(&outgoing_)) {
        writing_ = true;
      } else if (finish_ != nullptr) {
        finished_ = true;
        finish = std::move(finish_);
      } else {
        return;
      }
    }
    if (finish != nullptr) {
      this->Finish(finish());
    } else {
      this->StartWrite(&outgoing_);
    }
  }

  std::shared_ptr<ResponseStream> self_;
  grpc::ByteBuffer outgoing_;  // of the outstanding write
  bool writing_ = false;       // guarded by mutex_, like all below
  bool broken_ = false;        // a write failed: the client is gone
  bool poked_ = false;         // a Pump is queued
  bool finished_ = false;
  std::function<grpc::Status()> finish_;  // set by End
};

}  // namespace spotd::server
