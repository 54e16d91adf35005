#include "dist/mesh.h"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>

#include "base/error.h"

namespace weft {

constexpr size_t kAxes = static_cast<size_t>(Axis::kCount);

struct MeshState {
  World* world = nullptr;
  std::unique_ptr<World> owned;
  std::array<int, kAxes> size{}, stride{};
  int rank = 0;
  std::mutex mutex;
  std::map<std::string, std::unique_ptr<Comm>> comms;

  int coord(int r, Axis a) const { return r / stride[static_cast<size_t>(a)] % size[static_cast<size_t>(a)]; }
};

const char* name(Axis a) {
  constexpr const char* names[] = {"pp", "dp", "cp", "tp", "edp", "ep", "etp"};
  return names[static_cast<size_t>(a)];
}

namespace {

bool dense(Axis a) { return a == Axis::kTp || a == Axis::kCp || a == Axis::kDp; }
bool expert(Axis a) { return a == Axis::kEtp || a == Axis::kEp || a == Axis::kEdp; }

std::string group_name(std::initializer_list<Axis> axes) {
  std::string s;
  for (Axis a : axes) s += (s.empty() ? "" : "+") + std::string(name(a));
  return s;
}

std::vector<int> ranks_with(const MeshState& m, int self, std::initializer_list<Axis> axes) {
  const auto has = [&](auto test) { return std::any_of(axes.begin(), axes.end(), test); };
  WEFT_CHECK(!(has(dense) && has(expert)), "axes of two views in one group: " + group_name(axes));
  std::vector<int> out{self};
  for (Axis a : axes) {
    const size_t i = static_cast<size_t>(a);
    std::vector<int> more;
    for (int r : out)
      for (int c = 0; c < m.size[i]; ++c) more.push_back(r + (c - m.coord(r, a)) * m.stride[i]);
    out = std::move(more);
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

}  // namespace

Mesh Mesh::build(const MeshConfig& c, World& world) {
  const auto refuse = [](const std::string& text) { throw ConfigError("mesh: " + text); };
  const auto n = [](int v) { return std::to_string(v); };
  for (const auto& [key, v] : {std::pair{"pp", c.pp}, {"dp", c.dp}, {"cp", c.cp}, {"tp", c.tp}, {"ep", c.ep}, {"etp", c.etp}})
    if (v < 1) refuse(std::string(key) + ": got " + n(v) + ", want 1 or more");
  const int64_t want = int64_t{c.pp} * c.dp * c.cp * c.tp;
  if (want != world.size())
    refuse("pp x dp x cp x tp: got " + n(c.pp) + " x " + n(c.dp) + " x " + n(c.cp) + " x " + n(c.tp) + " = " + std::to_string(want) +
           ", want the number of ranks, " + n(world.size()) + "\n  try: dp = " + n(std::max(1, world.size() / std::max(1, c.pp * c.cp * c.tp))));
  const int per_stage = world.size() / c.pp;
  if (per_stage % (c.ep * c.etp) != 0)
    refuse("ep x etp: got " + n(c.ep) + " x " + n(c.etp) + ", want a divisor of dp x cp x tp = " + n(per_stage));
  if (c.order != "tp-cp-ep-dp-pp" && c.order != "tp-cp-ep-pp-dp") refuse("order: got '" + c.order + "', want tp-cp-ep-dp-pp or tp-cp-ep-pp-dp");

  auto state = std::make_shared<MeshState>();
  state->world = &world, state->rank = world.rank();
  const auto put = [&](std::initializer_list<std::pair<Axis, int>> fastest_first) {
    int stride = 1;
    for (auto [a, size] : fastest_first) {
      state->size[static_cast<size_t>(a)] = size;
      state->stride[static_cast<size_t>(a)] = stride;
      stride *= size;
    }
  };
  const int edp = per_stage / (c.ep * c.etp);
  using enum Axis;
  if (c.order == "tp-cp-ep-dp-pp") {
    put({{kEtp, c.etp}, {kEp, c.ep}, {kEdp, edp}, {kPp, c.pp}});
    put({{kTp, c.tp}, {kCp, c.cp}, {kDp, c.dp}, {kPp, c.pp}});
  } else {  // dp slowest: the pp stride of the two views agrees only when the blocks below it do
    if (c.tp * c.cp != c.etp * c.ep) refuse("order tp-cp-ep-pp-dp: got tp x cp = " + n(c.tp * c.cp) + " and etp x ep = " + n(c.etp * c.ep) + ", want them equal");
    put({{kEtp, c.etp}, {kEp, c.ep}, {kPp, c.pp}, {kEdp, edp}});
    put({{kTp, c.tp}, {kCp, c.cp}, {kPp, c.pp}, {kDp, c.dp}});
  }
  Mesh m;
  m.state_ = std::move(state);
  return m;
}

Mesh Mesh::single() {
  auto world = self_world();
  Mesh m = build({}, *world);
  m.state_->owned = std::move(world);
  return m;
}

int Mesh::size(Axis a) const { return state_->size[static_cast<size_t>(a)]; }
int Mesh::coord(Axis a) const { return state_->coord(state_->rank, a); }
int Mesh::rank() const { return state_->rank; }
std::vector<int> Mesh::ranks(std::initializer_list<Axis> axes) const { return ranks_with(*state_, state_->rank, axes); }

Comm& Mesh::comm(std::initializer_list<Axis> axes) const {
  std::vector<Axis> sorted(axes);
  std::sort(sorted.begin(), sorted.end());
  std::string key;
  for (Axis a : sorted) key += (key.empty() ? "" : "+") + std::string(name(a));
  std::lock_guard lock(state_->mutex);
  std::unique_ptr<Comm>& comm = state_->comms[key];
  if (!comm) comm = state_->world->group(ranks(axes), key);
  return *comm;
}

std::string Mesh::overview() const {
  std::string s;
  for (size_t i = 0; i < kAxes; ++i) {
    const Axis a = static_cast<Axis>(i);
    s += std::string(name(a)) + " = " + std::to_string(size(a)) + ":";
    std::vector<bool> seen(static_cast<size_t>(state_->world->size()));
    for (int r = 0; r < state_->world->size(); ++r) {
      if (seen[static_cast<size_t>(r)]) continue;
      s += " [";
      bool first = true;
      for (int k : ranks_with(*state_, r, {a})) {
        seen[static_cast<size_t>(k)] = true;
        s += (first ? "" : " ") + std::to_string(k);
        first = false;
      }
      s += "]";
    }
    s += "\n";
  }
  return s;
}

}  // namespace weft
