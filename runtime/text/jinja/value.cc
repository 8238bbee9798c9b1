#include "runtime/text/jinja/value.h"

#include <algorithm>

#include "kernels/core/status.h"

namespace spotd::text::jinja {
namespace {

// Makes room for `item` in a container of this depth and weight. Callables refer to scopes, which
// they must not outlive.
absl::Status AddItem(const Value& item, int* depth, size_t* weight) {
  if (item.Is(Value::Kind::kCallable)) return InvalidArgument("a macro or method cannot be stored");
  if (item.Is(Value::Kind::kLoop)) return InvalidArgument("the loop object cannot be stored");
  *depth = std::max(*depth, item.depth() + 1);
  *weight += item.weight();
  if (*depth > kMaxDepth) return InvalidArgument("values are nested too deeply");
  if (*weight > kMaxWeight) return InvalidArgument("a value is too large");
  return absl::OkStatus();
}

bool ListsEqual(const std::vector<Value>& a, const std::vector<Value>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Value& x, const Value& y) { return x.Equals(y); });
}

bool DictsEqual(const Value& a, const Value& b) {
  if (a.AsDict().size() != b.AsDict().size()) return false;
  for (const auto& [key, value] : a.AsDict()) {
    const Value* other = b.Find(key);
    if (other == nullptr || !value.Equals(*other)) return false;
  }
  return true;
}

}  // namespace

Value Value::String(std::string value) {
  return Value(Data(std::make_shared<const std::string>(std::move(value))));
}

Value Value::MakeUndefined(std::string why) {
  return Value(Data(Undefined{std::make_shared<const std::string>(std::move(why))}));
}

Value Value::OfCallable(Callable value) {
  return Value(Data(std::make_shared<const Callable>(std::move(value))));
}

bool Value::IsTuple() const {
  return Is(Kind::kList) && std::get<std::shared_ptr<const ListData>>(data_)->tuple;
}

const std::string& Value::AsString() const {
  return *std::get<std::shared_ptr<const std::string>>(data_);
}
const std::vector<Value>& Value::AsList() const {
  return std::get<std::shared_ptr<const ListData>>(data_)->items;
}
const std::vector<std::pair<Value, Value>>& Value::AsDict() const {
  return std::get<std::shared_ptr<const DictData>>(data_)->entries;
}
const std::shared_ptr<Namespace>& Value::AsNamespace() const {
  return std::get<std::shared_ptr<Namespace>>(data_);
}
const LoopState& Value::AsLoop() const {
  return *std::get<std::shared_ptr<const LoopState>>(data_);
}
const Callable& Value::AsCallable() const {
  return *std::get<std::shared_ptr<const Callable>>(data_);
}
const std::string& Value::WhyUndefined() const {
  return *std::get<Undefined>(data_).why;
}

int64_t Value::AsInt() const {
  return Is(Kind::kBool) ? static_cast<int64_t>(AsBool()) : std::get<int64_t>(data_);
}

double Value::AsNumber() const {
  return Is(Kind::kFloat) ? AsFloat() : static_cast<double>(AsInt());
}

const Value* Value::Find(const Value& key) const {
  for (const auto& [candidate, value] : AsDict()) {
    if (candidate.Equals(key)) return &value;
  }
  return nullptr;
}

int Value::depth() const {
  switch (kind()) {
    case Kind::kList:
      return std::get<std::shared_ptr<const ListData>>(data_)->depth;
    case Kind::kDict:
      return std::get<std::shared_ptr<const DictData>>(data_)->depth;
    case Kind::kNamespace:
      return kMaxDepth / 2;  // its values may be nested half as deep as others
    default:
      return 0;
  }
}

size_t Value::weight() const {
  if (Is(Kind::kList)) return std::get<std::shared_ptr<const ListData>>(data_)->weight;
  if (Is(Kind::kDict)) return std::get<std::shared_ptr<const DictData>>(data_)->weight;
  // Text is compared many bytes at a time.
  return Is(Kind::kString) ? 1 + AsString().size() / 64 : 1;
}

bool Value::Truth() const {
  switch (kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return AsInt() != 0;
    case Kind::kFloat:
      return AsFloat() != 0;
    case Kind::kString:
      return !AsString().empty();
    case Kind::kList:
      return !AsList().empty();
    case Kind::kDict:
      return !AsDict().empty();
    default:
      return true;
  }
}

bool Value::Equals(const Value& other) const {
  if (IsNumber() && other.IsNumber()) {
    const bool exact = !Is(Kind::kFloat) && !other.Is(Kind::kFloat);
    return exact ? AsInt() == other.AsInt() : AsNumber() == other.AsNumber();
  }
  if (kind() != other.kind()) return false;
  switch (kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      return AsString() == other.AsString();
    case Kind::kList:
      return IsTuple() == other.IsTuple() && ListsEqual(AsList(), other.AsList());
    case Kind::kDict:
      return DictsEqual(*this, other);
    case Kind::kNamespace:
      return AsNamespace() == other.AsNamespace();
    default:
      return false;
  }
}

std::string_view Value::TypeName() const {
  switch (kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kList:
      return IsTuple() ? "tuple" : "list";
    case Kind::kDict:
      return "dict";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kCallable:
      return "function";
  }
  return "";
}

absl::StatusOr<Value> MakeSequence(std::vector<Value> items, bool tuple) {
  ListData data{.items = {}, .tuple = tuple};
  for (const Value& item : items) SPOTD_RETURN_IF_ERROR(AddItem(item, &data.depth, &data.weight));
  data.items = std::move(items);
  return Value(Value::Data(std::make_shared<const ListData>(std::move(data))));
}

absl::StatusOr<Value> MakeDict(std::vector<std::pair<Value, Value>> entries) {
  if (entries.size() > kMaxDictSize) return InvalidArgument("a dict is too large");
  DictData data;
  for (auto& [key, value] : entries) {
    if (!key.Is(Value::Kind::kString) && !key.IsNumber() && !key.Is(Value::Kind::kNone)) {
      return InvalidArgument("a ", key.TypeName(), " cannot be a key");
    }
    SPOTD_RETURN_IF_ERROR(AddItem(value, &data.depth, &data.weight));
    const auto same =
        std::find_if(data.entries.begin(), data.entries.end(),
                     [&wanted = key](const auto& entry) { return entry.first.Equals(wanted); });
    if (same != data.entries.end()) {
      same->second = std::move(value);
    } else {
      data.entries.emplace_back(std::move(key), std::move(value));
    }
  }
  return Value(Value::Data(std::make_shared<const DictData>(std::move(data))));
}

Callable Callable::OfMacro(const MacroDefinition* macro, Scope* scope) {
  Callable callable;
  callable.macro = macro;
  callable.scope = scope;
  return callable;
}

Callable Callable::OfFunction(std::string name) {
  Callable callable;
  callable.name = std::move(name);
  return callable;
}

Callable Callable::OfMethod(std::string name, Value self) {
  Callable callable = OfFunction(std::move(name));
  callable.self = std::move(self);
  callable.is_method = true;
  return callable;
}

absl::Status Namespace::Set(const std::string& name, Value value) {
  int depth = 1;
  size_t weight = 1;
  SPOTD_RETURN_IF_ERROR(AddItem(value, &depth, &weight));
  if (depth > kMaxDepth / 2)
    return InvalidArgument("a namespace cannot hold values nested so deeply");
  for (auto& [existing, old] : attributes_) {
    if (existing != name) continue;
    old = std::move(value);
    return absl::OkStatus();
  }
  if (attributes_.size() == kMaxDictSize) return InvalidArgument("a namespace is too large");
  attributes_.emplace_back(name, std::move(value));
  return absl::OkStatus();
}

const Value* Namespace::Find(std::string_view name) const {
  for (const auto& [existing, value] : attributes_) {
    if (existing == name) return &value;
  }
  return nullptr;
}

}  // namespace spotd::text::jinja
