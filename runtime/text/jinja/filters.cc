#include "runtime/text/jinja/filters.h"

#include "kernels/core/status.h"
#include "runtime/text/jinja/filter_tables.h"

namespace spotd::text::jinja {
namespace {

const Filter* FindFilter(const std::string& name) {
  for (const FilterTable* table : {&TextFilters(), &ListFilters(), &SelectFilters()}) {
    const auto it = table->find(name);
    if (it != table->end()) return &it->second;
  }
  return nullptr;
}

}  // namespace

bool HasFilter(const std::string& name) {
  return FindFilter(name) != nullptr;
}

absl::StatusOr<Value> ApplyFilter(const std::string& name, const Value& value,
                                  const Arguments& arguments, Budget* budget) {
  const Filter* filter = FindFilter(name);
  if (filter == nullptr) return InvalidArgument("there is no filter \"", name, "\"");
  const size_t size = value.Is(Value::Kind::kString) ? value.AsString().size() / 4 : value.weight();
  SPOTD_RETURN_IF_ERROR(budget->Spend(size + 1 + arguments.weight()));
  return (*filter)(value, arguments, budget);
}

}  // namespace spotd::text::jinja
