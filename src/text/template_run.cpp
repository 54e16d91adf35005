// Statements of a template, and its public face.
#include "text/template_run.h"

#include "base/error.h"
#include "text/unicode.h"

namespace weft::text {
namespace jinja {

Runner::Runner(const nlohmann::ordered_json& variables, const TemplateLimits& limits) : limits_(limits), left_(limits.operations), scopes_(2) {
  if (!variables.is_object()) throw Error{"variables: want an object"};
  for (const auto& [key, value] : variables.items()) scopes_[0].emplace(key, Value::from_json(value));
  visible_ = 2;
}

RenderedChat Runner::run(const Node& root) {
  out_ = &root_;
  try {
    statement(root);
  } catch (const Error& e) {
    if (e.text.starts_with("line ")) throw;
    throw Error{"line " + std::to_string(line_) + ": " + e.text};
  }
  return {std::move(root_), std::move(generated_)};
}

void Runner::spend(int64_t operations, int line) {
  if (line > 0) line_ = line;
  left_ -= operations;
  if (left_ < 0) throw Error{"does more than " + std::to_string(limits_.operations) + " operations"};
}

Value Runner::text(std::string s) {
  if (s.size() > limits_.output_bytes) throw Error{"a string is longer than " + std::to_string(limits_.output_bytes) + " bytes"};
  spend(static_cast<int64_t>(s.size() / 64));
  return Value::of(std::move(s));
}

void Runner::emit(std::string_view s) {
  if (out_->size() + s.size() > limits_.output_bytes) throw Error{"writes more than " + std::to_string(limits_.output_bytes) + " bytes"};
  *out_ += s;
}

const Value* Runner::find(std::string_view name) const {
  for (size_t i = scopes_.size(); i > visible_; --i) {
    if (const auto it = scopes_[i - 1].find(name); it != scopes_[i - 1].end()) return &it->second;
  }
  for (const size_t i : {size_t{1}, size_t{0}}) {
    if (const auto it = scopes_[i].find(name); it != scopes_[i].end()) return &it->second;
  }
  return nullptr;
}

void Runner::assign(const std::vector<std::string>& names, const Value& value, int line) {
  if (names.size() == 1) {
    scopes_.back().insert_or_assign(names[0], value);
    return;
  }
  const Values items = items_of(value);
  if (items.size() != names.size()) {
    throw Error{"line " + std::to_string(line) + ": got " + std::to_string(items.size()) + " values, want " + std::to_string(names.size())};
  }
  for (size_t i = 0; i < names.size(); ++i) scopes_.back().insert_or_assign(names[i], items[i]);
}

std::string Runner::captured(const Node& body) {
  std::string text;
  std::string* const before = std::exchange(out_, &text);
  statement(body);
  out_ = before;
  return text;
}

const Values Runner::items_of(const Value& v) {
  switch (v.kind) {
    case Value::kUndefined: return {};
    case Value::kList: case Value::kTuple: spend(static_cast<int64_t>(v.list->size())); return *v.list;
    case Value::kDict: {
      Values keys;
      for (const auto& pair : *v.dict) keys.push_back(from_dict_key(pair.first));
      spend(static_cast<int64_t>(keys.size()));
      return keys;
    }
    case Value::kString: {
      Values out;
      for (size_t at = 0; at < v.text->size();) {
        const size_t n = decode_utf8(*v.text, at).length;
        out.push_back(Value::of(v.text->substr(at, n)));
        at += n;
      }
      spend(static_cast<int64_t>(out.size()));
      return out;
    }
    default: throw Error{std::string("a ") + type_name(v) + " cannot be walked through"};
  }
}

Runner::Flow Runner::statement(const Node& n) {
  spend(1, n.line);
  switch (n.kind) {
    case Node::kBody:
      for (const NodePtr& child : n.children) {
        if (const Flow flow = statement(*child); flow != kOn) return flow;
      }
      return kOn;
    case Node::kText: emit(n.name); return kOn;
    case Node::kPrint: emit(str(expression(*n.children[0]))); return kOn;
    case Node::kIf: {
      size_t i = 0;
      for (; i + 1 < n.children.size(); i += 2) {
        if (expression(*n.children[i]).truth()) return statement(*n.children[i + 1]);
      }
      return i < n.children.size() ? statement(*n.children[i]) : kOn;
    }
    case Node::kFor: return loop(n);
    case Node::kSet: {
      const Value value = expression(*n.children[0]);
      if (n.name.empty()) return assign(n.words, value, n.line), kOn;
      const Value* space = find(n.words[0]);
      if (space == nullptr || space->kind != Value::kNamespace) throw Error{"cannot set an attribute of '" + n.words[0] + "', which is no namespace"};
      if (value.kind == Value::kNamespace) throw Error{"a namespace inside a namespace is not supported"};
      for (auto& [key, old] : *space->space) {
        if (key == n.name) return old = value, kOn;
      }
      if (space->space->size() > 10000) throw Error{"a namespace of more than 10000 names"};
      space->space->emplace_back(n.name, value);
      return kOn;
    }
    case Node::kSetBlock: {
      Value value = text(captured(*n.children[0]));
      scopes_.emplace_back();  // the filters' input
      const Node* filter = n.children[1].get();
      std::vector<const Node*> chain;
      for (; filter->kind == Node::kFilter; filter = filter->children[0].get()) chain.push_back(filter);
      scopes_.pop_back();
      for (auto f = chain.rbegin(); f != chain.rend(); ++f) value = apply_filter((*f)->name, value, arguments(**f, 1));
      return assign(n.words, value, n.line), kOn;
    }
    case Node::kFilterBlock: {
      Value value = text(captured(*n.children[0]));
      std::vector<const Node*> chain;
      for (const Node* f = n.children[1].get(); f->kind == Node::kFilter; f = f->children[0].get()) chain.push_back(f);
      for (auto f = chain.rbegin(); f != chain.rend(); ++f) value = apply_filter((*f)->name, value, arguments(**f, 1));
      return emit(str(value)), kOn;
    }
    case Node::kMacro: {
      Value v;
      v.kind = Value::kMacro;
      v.macro = std::make_shared<const Macro>(Macro{&n});
      scopes_.back().insert_or_assign(n.name, v);
      return kOn;
    }
    case Node::kGeneration: {
      const size_t begin = root_.size();
      const Flow flow = statement(*n.children[0]);
      if (out_ == &root_) generated_.push_back({begin, root_.size()});
      return flow;
    }
    case Node::kWith: {
      Scope scope;
      for (size_t i = 0; i < n.words.size(); ++i) scope.insert_or_assign(n.words[i], expression(*n.children[i]));
      scopes_.push_back(std::move(scope));
      const Flow flow = statement(*n.children.back());
      scopes_.pop_back();
      return flow;
    }
    case Node::kBreak: return kBreak;
    case Node::kContinue: return kContinue;
    default: throw Error{"not a statement"};
  }
}

Runner::Flow Runner::loop(const Node& n) {
  Values items = items_of(expression(*n.children[0]));
  if (n.children[1]) {
    Values kept;
    scopes_.emplace_back();
    for (const Value& v : items) {
      assign(n.words, v, n.line);
      if (expression(*n.children[1]).truth()) kept.push_back(v);
    }
    scopes_.pop_back();
    items = std::move(kept);
  }
  if (items.empty()) {
    if (!n.children[3]) return kOn;
    scopes_.emplace_back();
    const Flow flow = statement(*n.children[3]);
    scopes_.pop_back();
    return flow;
  }
  const int64_t size = static_cast<int64_t>(items.size());
  int64_t depth = 1;
  if (const Value* outer = find("loop"); outer != nullptr && outer->kind == Value::kDict) {
    if (const Value* d = outer->find("depth")) depth = d->as_int() + 1;
  }
  for (int64_t i = 0; i < size; ++i) {
    spend(1);
    scopes_.emplace_back();
    const auto at = [&](int64_t k) { return k >= 0 && k < size ? items[static_cast<size_t>(k)] : Value::undefined("item"); };
    scopes_.back().insert_or_assign("loop", Value::of(Pairs{{"index", Value::of(i + 1)}, {"index0", Value::of(i)}, {"first", Value::of(i == 0)},
                                                            {"last", Value::of(i + 1 == size)}, {"length", Value::of(size)}, {"revindex", Value::of(size - i)},
                                                            {"revindex0", Value::of(size - i - 1)}, {"previtem", at(i - 1)}, {"nextitem", at(i + 1)},
                                                            {"depth", Value::of(depth)}, {"depth0", Value::of(depth - 1)}}));
    assign(n.words, items[static_cast<size_t>(i)], n.line);
    const Flow flow = statement(*n.children[2]);
    scopes_.pop_back();
    if (flow == kBreak) break;
  }
  return kOn;
}

}  // namespace jinja

struct ChatTemplate::State {
  std::string where;
  jinja::NodePtr root;
};

ChatTemplate::ChatTemplate(std::string_view source, const std::string& where) {
  auto state = std::make_shared<State>();
  state->where = where;
  try {
    state->root = jinja::parse_template(source);
  } catch (const jinja::Error& e) {
    throw InputError(where + ": " + e.text);
  }
  state_ = std::move(state);
}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

RenderedChat ChatTemplate::render(const nlohmann::ordered_json& variables, const TemplateLimits& limits) const {
  try {
    jinja::Runner runner(variables, limits);
    return runner.run(*state_->root);
  } catch (const jinja::Error& e) {
    throw InputError(state_->where + ": " + e.text);
  }
}

}  // namespace weft::text
