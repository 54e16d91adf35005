#include "ops/aten.h"

#include "train/op_times.h"

#include <ATen/record_function.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <time.h>

#include <algorithm>
#include <chrono>
#include <map>

namespace weft::train {
namespace {

using Clock = std::chrono::steady_clock;

struct Ledger final : c10::DebugInfoBase {  // found by the callbacks, which carry no state of their own
  struct Entry {
    int64_t calls = 0;
    double seconds = 0, cpu_seconds = 0;
  };
  std::map<std::string, Entry> entries;
  int depth = 0;
};

struct Span final : at::ObserverContext {
  bool counted = false, outermost = false;
  Clock::time_point start = Clock::now();
  double cpu_start = process_cpu_seconds();
};

constexpr auto kKind = c10::DebugInfoKind::PRODUCER_INFO;
Ledger* ledger() { return static_cast<Ledger*>(c10::ThreadLocalDebugInfo::get(kKind)); }

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& f) {
  auto span = std::make_unique<Span>();
  Ledger* l = ledger();
  span->counted = l != nullptr && !std::string_view(f.name()).starts_with("autograd::");  // the engine's frame around a node is no operator
  if (span->counted) span->outermost = l->depth++ == 0;
  return span;
}

void end(const at::RecordFunction& f, at::ObserverContext* context) {
  Ledger* l = ledger();
  const auto* span = static_cast<const Span*>(context);
  if (l == nullptr || !span->counted) return;
  --l->depth;
  if (!span->outermost) return;
  Ledger::Entry& e = l->entries[f.name()];
  ++e.calls, e.seconds += std::chrono::duration<double>(Clock::now() - span->start).count(), e.cpu_seconds += process_cpu_seconds() - span->cpu_start;
}

}  // namespace

double process_cpu_seconds() {
  timespec t{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

struct OpTimes::Listener {
  std::shared_ptr<Ledger> ledger = std::make_shared<Ledger>();
  c10::DebugInfoGuard guard{kKind, ledger};
  at::CallbackHandle handle = at::addThreadLocalCallback(at::RecordFunctionCallback(begin, end).scopes({at::RecordScope::FUNCTION, at::RecordScope::USER_SCOPE}));
  ~Listener() { at::removeCallback(handle); }
};

OpTimes::OpTimes() : listener_(std::make_unique<Listener>()) {}
OpTimes::~OpTimes() = default;

std::vector<OpTimes::Row> OpTimes::rows() const {
  std::vector<Row> out;
  for (const auto& [name, e] : listener_->ledger->entries) out.push_back({name, e.calls, e.seconds, e.cpu_seconds});
  std::sort(out.begin(), out.end(), [](const Row& a, const Row& b) { return a.seconds > b.seconds; });
  return out;
}

}  // namespace weft::train
