#include "runtime/engine/request_log.h"

#include <utility>

namespace spotd::engine {

void AnsweredRequest::Add(const TokenEvent& event) {
  text += event.text;
  tokens.push_back(event.token);
  logprobs.push_back(event.logprob);
  if (!event.top.empty()) top.push_back(event.top);
}

void AnsweredRequest::Replay(TokenSink* sink) const {
  for (size_t i = 0; i < tokens.size(); ++i) {
    TokenEvent event;
    event.token = tokens[i];
    event.logprob = logprobs[i];
    if (!top.empty()) event.top = top[i];
    if (i == 0) event.text = text;
    sink->OnToken(event);
  }
}

std::shared_ptr<const AnsweredRequest> RequestLog::Find(std::string_view id) const {
  for (const auto& request : requests_) {
    if (request->id == id) return request;
  }
  return nullptr;
}

void RequestLog::Add(AnsweredRequest request) {
  if (request.generated) {
    for (auto& earlier : requests_) {
      if (earlier->tokens.empty()) continue;
      auto shorter = std::make_shared<AnsweredRequest>();
      shorter->id = earlier->id;
      shorter->fingerprint = earlier->fingerprint;
      shorter->generated = true;
      shorter->generate = earlier->generate;
      earlier = std::move(shorter);
    }
  }
  requests_.push_back(std::make_shared<AnsweredRequest>(std::move(request)));
  if (requests_.size() > kKept) requests_.pop_front();
}

}  // namespace spotd::engine
