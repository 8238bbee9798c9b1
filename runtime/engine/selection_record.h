// Which blocks each layer read for each token of a reply: recorded on request, kept compressed, and
// bounded in memory over all requests.
//
// The engine thread writes a record; once the reply has ended it is immutable and any thread may
// read it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/model/transformer.h"

namespace spotd::engine {

// Bytes that all records together may take. Thread-safe.
class RecordBudget {
 public:
  explicit RecordBudget(int64_t bytes) : left_(bytes) {}
  bool Take(int64_t bytes);
  void GiveBack(int64_t bytes) { left_.fetch_add(bytes); }

 private:
  std::atomic<int64_t> left_;
};

// A run of neighbouring blocks.
struct BlockRun {
  int32_t first = 0;
  int32_t count = 0;
};

class SelectionRecord {
 public:
  struct Step {
    int32_t position = 0;  // of the token that the step drew
    int32_t token = 0;
    bool dense = false;                         // every block was read; no runs are listed
    std::vector<std::vector<BlockRun>> layers;  // ascending runs of each layer
  };

  explicit SelectionRecord(std::shared_ptr<RecordBudget> budget) : budget_(std::move(budget)) {}
  ~SelectionRecord() { budget_->GiveBack(bytes_); }
  SelectionRecord(const SelectionRecord&) = delete;
  SelectionRecord& operator=(const SelectionRecord&) = delete;

  // Nothing more is recorded once the memory is used up.
  void Add(int32_t position, int32_t token, bool dense, const model::SelectionTrace& trace);
  const std::vector<Step>& steps() const { return steps_; }
  // Steps that came after the memory was used up.
  int32_t dropped() const { return dropped_; }

 private:
  std::shared_ptr<RecordBudget> budget_;
  std::vector<Step> steps_;
  int64_t bytes_ = 0;
  int32_t dropped_ = 0;
};

}  // namespace spotd::engine
