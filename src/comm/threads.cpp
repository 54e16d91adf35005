#include "comm/threads.h"

#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"
#include "comm/reduce.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;

struct Aborted : CommError { using CommError::CommError; };  // the consequence, not the cause

struct Post {  // what one rank brings to a collective
  const char* op = "";
  std::string what = "nothing yet";
  uint64_t number = 0;
  const void* in = nullptr;
  void* out = nullptr;
  size_t count = 0;
  DType dtype = DType::kU8;
  Reduce reduce = Reduce::kSum;
  std::vector<size_t> in_counts, out_counts;
};

std::string text(const Post& p) {
  return "'" + p.what + "' (" + (*p.op ? p.op : "no call") + ", " + std::to_string(p.count) + " x " + name(p.dtype) + ", call " +
         std::to_string(p.number) + ")";
}

struct Message {
  const void* data;
  size_t count;
  DType dtype;
  bool taken = false;
};
struct Box {
  int from, to, tag;
  auto operator<=>(const Box&) const = default;
};

struct Group {  // shared by the ranks of one communicator
  Group(std::string n, std::vector<int> r) : name(std::move(n)), ranks(std::move(r)), posts(ranks.size()) {}
  std::string name;
  std::vector<int> ranks;  // of the world
  std::mutex mutex;
  std::condition_variable moved;
  std::vector<Post> posts;
  int arrived = 0;
  uint64_t phase = 0;
  std::string fault;  // why the group is of no more use
  std::map<Box, std::deque<std::shared_ptr<Message>>> mail;

  void break_with(const std::string& why) {
    std::lock_guard lock(mutex);
    if (fault.empty()) fault = why;
    moved.notify_all();
  }
};

struct WorldState {
  int size;
  RankOptions options;
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<Group>> groups;
  std::string fault;

  std::shared_ptr<Group> join(const std::vector<int>& ranks, const std::string& name) {
    std::string key = name + ":";
    for (int r : ranks) key += " " + std::to_string(r);
    std::lock_guard lock(mutex);
    std::shared_ptr<Group>& g = groups[key];
    if (!g) {
      g = std::make_shared<Group>(name, ranks);
      g->fault = fault;
    }
    return g;
  }
  void break_all(const std::string& why) {
    std::vector<std::shared_ptr<Group>> all;
    {
      std::lock_guard lock(mutex);
      if (fault.empty()) fault = why;
      for (auto& [key, g] : groups) all.push_back(g);
    }
    for (auto& g : all) g->break_with(why);
  }
};

class ThreadComm final : public Comm {
 public:
  ThreadComm(std::shared_ptr<WorldState> world, std::shared_ptr<Group> group, int rank)
      : world_(std::move(world)), group_(std::move(group)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(group_->ranks.size()); }

  void all_gather(const void* in, void* out, size_t count, DType t, Call call) override {
    meet({"all_gather", call.what, 0, in, out, count, t}, [&] {
      const size_t n = bytes(t, count);
      for (int r = 0; r < size(); ++r) copy(static_cast<char*>(out) + r * n, group_->posts[r].in, n);
    });
  }
  void reduce_scatter(const void* in, void* out, size_t count, DType t, Reduce op, Call call) override {
    meet({"reduce_scatter", call.what, 0, in, out, count, t, op}, [&] { reduce_part(rank_ * count, count, out, t, op, call); });
  }
  void all_reduce(const void* in, void* out, size_t count, DType t, Reduce op, Call call) override {
    meet({"all_reduce", call.what, 0, in, out, count, t, op}, [&] { reduce_part(0, count, out, t, op, call); });
  }
  void all_to_all(const void* in, std::span<const size_t> in_counts, void* out, std::span<const size_t> out_counts, DType t,
                  Call call) override {
    const size_t n = static_cast<size_t>(size());
    if (in_counts.size() != n || out_counts.size() != n)
      throw CommError(std::string(call.what) + ": all_to_all: got " + std::to_string(in_counts.size()) + " and " +
                      std::to_string(out_counts.size()) + " counts, want " + std::to_string(n) + " of each");
    Post mine{"all_to_all", call.what, 0, in, out, 0, t};
    mine.in_counts.assign(in_counts.begin(), in_counts.end());
    mine.out_counts.assign(out_counts.begin(), out_counts.end());
    meet(std::move(mine), [&] {
      char* to = static_cast<char*>(out);
      for (size_t r = 0; r < n; ++r) {
        const Post& p = group_->posts[r];
        if (p.in_counts[rank_] != out_counts[r])
          throw CommError(std::string(call.what) + ": all_to_all: rank " + world_rank(r) + " sends " + std::to_string(p.in_counts[rank_]) +
                          " to rank " + world_rank(rank_) + ", which expects " + std::to_string(out_counts[r]));
        size_t skip = 0;
        for (int k = 0; k < rank_; ++k) skip += p.in_counts[k];
        copy(to, static_cast<const char*>(p.in) + bytes(t, skip), bytes(t, out_counts[r]));
        to += bytes(t, out_counts[r]);
      }
    });
  }

  void exchange(std::span<const Transfer> all, Call call) override {
    Group& g = *group_;
    const auto deadline = Clock::now() + world_->options.hang_after;
    std::vector<std::shared_ptr<Message>> sent(all.size());
    std::unique_lock lock(g.mutex);
    for (size_t i = 0; i < all.size(); ++i) {
      const Transfer& t = all[i];
      if (t.peer < 0 || t.peer >= size() || t.peer == rank_)
        throw CommError(std::string(call.what) + ": exchange: got peer " + std::to_string(t.peer) + ", want another rank below " + std::to_string(size()));
      if (!t.send) continue;
      sent[i] = std::make_shared<Message>(Message{t.data, t.count, t.dtype});
      g.mail[{rank_, t.peer, t.tag}].push_back(sent[i]);
    }
    g.moved.notify_all();
    for (const Transfer& t : all) {
      if (t.send) continue;
      auto& queue = g.mail[{t.peer, rank_, t.tag}];
      wait(lock, deadline, [&] { return !queue.empty(); },
           [&] { return std::string(call.what) + ": rank " + world_rank(rank_) + " waits for tag " + std::to_string(t.tag) + " from rank " + world_rank(t.peer); });
      const std::shared_ptr<Message> m = queue.front();
      if (m->count != t.count || m->dtype != t.dtype)
        throw CommError(std::string(call.what) + ": exchange: rank " + world_rank(t.peer) + " sends " + std::to_string(m->count) + " x " + name(m->dtype) +
                        " with tag " + std::to_string(t.tag) + ", rank " + world_rank(rank_) + " expects " + std::to_string(t.count) + " x " + name(t.dtype));
      queue.pop_front();
      copy(t.data, m->data, bytes(t.dtype, t.count));  // under the lock: the sender keeps its buffer until `taken`
      m->taken = true;
      g.moved.notify_all();
    }
    for (size_t i = 0; i < all.size(); ++i) {
      if (!sent[i]) continue;
      wait(lock, deadline, [&] { return sent[i]->taken; },
           [&] { return std::string(call.what) + ": rank " + world_rank(all[i].peer) + " has not taken tag " + std::to_string(all[i].tag) + " from rank " + world_rank(rank_); });
    }
  }

  std::unique_ptr<Comm> lane(const char* name) override {
    return std::make_unique<ThreadComm>(world_, world_->join(group_->ranks, group_->name + "/" + name), rank_);
  }
  void abort() noexcept override {
    try {
      world_->break_all("aborted by rank " + world_rank(rank_) + missing());
    } catch (...) {  // out of memory while telling: the waiting ranks end by their timeout
    }
  }

 private:
  static void copy(void* to, const void* from, size_t n) { if (n > 0) std::memcpy(to, from, n); }
  std::string world_rank(int r) const { return std::to_string(group_->ranks[static_cast<size_t>(r)]); }

  void reduce_part(size_t first, size_t count, void* out, DType t, Reduce op, Call call) {
    std::vector<const void*> in;
    for (const Post& p : group_->posts) in.push_back(static_cast<const char*>(p.in) + bytes(t, first));
    reduce_into(in, out, count, t, op, call.what);
  }

  std::string missing() {  // who is behind in this group, for the report
    std::lock_guard lock(group_->mutex);
    uint64_t most = 0;
    for (const Post& p : group_->posts) most = std::max(most, p.number);
    std::string s;
    for (int r = 0; r < size(); ++r)
      if (group_->posts[r].number < most) s += "; rank " + world_rank(r) + " was last in " + text(group_->posts[r]);
    return s;
  }

  template <class Ready, class Text>
  void wait(std::unique_lock<std::mutex>& lock, Clock::time_point deadline, Ready ready, Text waiting_for) {
    const auto start = Clock::now();
    Group& g = *group_;
    g.moved.wait_until(lock, deadline, [&] { return ready() || !g.fault.empty(); });
    if (ready()) return;
    if (!g.fault.empty()) throw Aborted("group " + g.name + ": " + g.fault);
    const double s = std::chrono::duration<double>(Clock::now() - start).count();
    throw HangError("group " + g.name + ": " + waiting_for() + ": nothing after " + std::to_string(s).substr(0, 5) + " s");
  }

  // One barrier of the group; `at` says where, for the report.
  void barrier(std::unique_lock<std::mutex>& lock, const Post& mine) {
    Group& g = *group_;
    const uint64_t phase = g.phase;
    if (++g.arrived == size()) {
      g.arrived = 0, ++g.phase;
      g.moved.notify_all();
      return;
    }
    wait(lock, Clock::now() + world_->options.hang_after, [&] { return g.phase != phase; }, [&] {
      std::string s = "rank " + world_rank(rank_) + " waits in " + text(mine);
      for (int r = 0; r < size(); ++r)
        if (g.posts[r].number < mine.number) s += "; rank " + world_rank(r) + " has not come, it was last in " + text(g.posts[r]);
      return s;
    });
  }

  template <class Work>
  void meet(Post mine, Work work) {
    Group& g = *group_;
    mine.number = ++calls_;
    std::unique_lock lock(g.mutex);
    if (!g.fault.empty()) throw Aborted("group " + g.name + ": " + g.fault);
    g.posts[static_cast<size_t>(rank_)] = mine;
    barrier(lock, mine);
    for (int r = 0; r < size(); ++r) {  // all ranks are here: do they mean the same call?
      const Post& p = g.posts[r];
      if (std::strcmp(p.op, mine.op) != 0 || p.what != mine.what || p.count != mine.count || p.dtype != mine.dtype || p.reduce != mine.reduce)
        throw CommError("group " + g.name + ": ranks differ: rank " + world_rank(rank_) + " is in " + text(mine) + ", rank " + world_rank(r) + " in " + text(p));
    }
    lock.unlock();
    work();
    lock.lock();
    barrier(lock, mine);  // inputs stay until everyone has read them
  }

  std::shared_ptr<WorldState> world_;
  std::shared_ptr<Group> group_;
  int rank_;
  uint64_t calls_ = 0;
};

class ThreadWorld final : public World {
 public:
  ThreadWorld(std::shared_ptr<WorldState> state, int rank) : state_(std::move(state)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return state_->size; }
  std::unique_ptr<Comm> group(std::span<const int> ranks, const std::string& name) override {
    int mine = -1;
    for (size_t i = 0; i < ranks.size(); ++i) {
      if (ranks[i] < 0 || ranks[i] >= state_->size || (i > 0 && ranks[i] <= ranks[i - 1]))
        throw CommError("group " + name + ": ranks must be ascending and below " + std::to_string(state_->size));
      if (ranks[i] == rank_) mine = static_cast<int>(i);
    }
    if (mine < 0) throw CommError("group " + name + ": rank " + std::to_string(rank_) + " is not in it");
    return std::make_unique<ThreadComm>(state_, state_->join({ranks.begin(), ranks.end()}, name), mine);
  }

 private:
  std::shared_ptr<WorldState> state_;
  int rank_;
};

}  // namespace

void run_ranks(int n, const std::function<void(World&)>& fn, const RankOptions& options) {
  WEFT_CHECK(n >= 1, "ranks: " + std::to_string(n));
  auto state = std::make_shared<WorldState>();
  state->size = n;
  state->options = options;
  std::mutex mutex;
  std::exception_ptr cause, consequence;
  const auto note = [&](std::exception_ptr& slot, const std::string& why) {
    std::lock_guard lock(mutex);
    if (!slot) slot = std::current_exception();
    state->break_all(why);
  };
  std::vector<std::thread> threads;
  for (int r = 0; r < n; ++r)
    threads.emplace_back([&, r] {
      const std::string who = "rank " + std::to_string(r) + " failed: ";
      try {
        ThreadWorld world(state, r);
        fn(world);
      } catch (const Aborted& e) {
        note(consequence, who + e.what());
      } catch (const std::exception& e) {
        note(cause, who + e.what());
      } catch (...) {
        note(cause, who + "an exception of unknown type");
      }
    });
  for (std::thread& t : threads) t.join();
  if (cause) std::rethrow_exception(cause);
  if (consequence) std::rethrow_exception(consequence);
}

}  // namespace weft
