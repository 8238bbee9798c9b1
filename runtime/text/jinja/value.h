// A value of the template language: what Python's None, bool, int, float, str, list, tuple and dict
// are to Jinja, and the few objects that templates meet (undefined, namespace, loop, callables).
//
// Values are cheap to copy (strings and containers are shared) and immutable, except namespaces.
// They form no cycles and their nesting is bounded: MakeList, MakeDict and Namespace::Set refuse
// what would break that.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace spotd::text::jinja {

class Value;
struct Callable;
struct LoopState;
class Namespace;
struct ListData;
struct DictData;

struct Undefined {
  std::shared_ptr<const std::string>
      why;  // for the message when it is used, e.g. "'x' is undefined"
};
struct None {};

class Value {
 public:
  enum class Kind {
    kUndefined,
    kNone,
    kBool,
    kInt,
    kFloat,
    kString,
    kList,  // or tuple
    kDict,
    kNamespace,
    kLoop,
    kCallable,
  };

  Value() : data_(None{}) {}
  static Value Bool(bool value) { return Value(Data(value)); }
  static Value Int(int64_t value) { return Value(Data(value)); }
  static Value Float(double value) { return Value(Data(value)); }
  static Value String(std::string value);
  static Value MakeUndefined(std::string why);
  static Value OfNamespace(std::shared_ptr<Namespace> value) {
    return Value(Data(std::move(value)));
  }
  static Value OfLoop(std::shared_ptr<const LoopState> value) {
    return Value(Data(std::move(value)));
  }
  static Value OfCallable(Callable value);

  Kind kind() const { return static_cast<Kind>(data_.index()); }
  bool Is(Kind k) const { return kind() == k; }
  bool IsNumber() const { return Is(Kind::kBool) || Is(Kind::kInt) || Is(Kind::kFloat); }
  bool IsTuple() const;

  // Each is valid for its kind only.
  bool AsBool() const { return std::get<bool>(data_); }
  double AsFloat() const { return std::get<double>(data_); }
  const std::string& AsString() const;
  const std::vector<Value>& AsList() const;
  const std::vector<std::pair<Value, Value>>& AsDict() const;
  const std::shared_ptr<Namespace>& AsNamespace() const;
  const LoopState& AsLoop() const;
  const Callable& AsCallable() const;
  const std::string& WhyUndefined() const;

  int64_t AsInt() const;                      // of an int or a bool
  double AsNumber() const;                    // of a number
  const Value* Find(const Value& key) const;  // in a dict; nullptr when absent

  // How deep containers are nested in this value; 0 for a value that is none.
  int depth() const;
  // Values inside, counted as often as they are reached, long text as several: the work of walking
  // over this one. At least 1.
  size_t weight() const;

  // As Python's bool() and ==.
  bool Truth() const;
  bool Equals(const Value& other) const;
  // As Python's name of the type, for messages.
  std::string_view TypeName() const;

 private:
  using Data = std::variant<Undefined, None, bool, int64_t, double,
                            std::shared_ptr<const std::string>, std::shared_ptr<const ListData>,
                            std::shared_ptr<const DictData>, std::shared_ptr<Namespace>,
                            std::shared_ptr<const LoopState>, std::shared_ptr<const Callable>>;
  explicit Value(Data data) : data_(std::move(data)) {}

  friend absl::StatusOr<Value> MakeSequence(std::vector<Value> items, bool tuple);
  friend absl::StatusOr<Value> MakeDict(std::vector<std::pair<Value, Value>> entries);

  Data data_;
};

inline constexpr int kMaxDepth = 64;         // of nested containers
inline constexpr size_t kMaxDictSize = 512;  // look-up is linear
inline constexpr size_t kMaxWeight = size_t{1} << 22;

struct ListData {
  std::vector<Value> items;
  bool tuple = false;
  int depth = 1;
  size_t weight = 1;
};
struct DictData {
  std::vector<std::pair<Value, Value>> entries;  // in the order of insertion
  int depth = 1;
  size_t weight = 1;
};

absl::StatusOr<Value> MakeSequence(std::vector<Value> items, bool tuple);
inline absl::StatusOr<Value> MakeList(std::vector<Value> items) {
  return MakeSequence(std::move(items), /*tuple=*/false);
}
inline absl::StatusOr<Value> MakeTuple(std::vector<Value> items) {
  return MakeSequence(std::move(items), /*tuple=*/true);
}
// Of equal keys the last value counts.
absl::StatusOr<Value> MakeDict(std::vector<std::pair<Value, Value>> entries);

// The mutable object that templates use to carry values out of a loop.
class Namespace {
 public:
  absl::Status Set(const std::string& name, Value value);
  const Value* Find(std::string_view name) const;

 private:
  std::vector<std::pair<std::string, Value>> attributes_;
};

// The `loop` of a for statement at one of its iterations.
struct LoopState {
  std::shared_ptr<const std::vector<Value>> items;
  size_t index = 0;
};

struct MacroDefinition;
class Scope;

// A macro, a global function, or a method together with its object.
struct Callable {
  static Callable OfMacro(const MacroDefinition* macro, Scope* scope);
  static Callable OfFunction(std::string name);
  static Callable OfMethod(std::string name, Value self);

  const MacroDefinition* macro = nullptr;
  Scope* scope = nullptr;  // where the macro was defined; it outlives every use, as macros cannot
                           // be stored elsewhere
  std::string name;        // of a function or method
  Value self;
  bool is_method = false;
};

}  // namespace spotd::text::jinja
