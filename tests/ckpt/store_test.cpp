#include "ops/aten.h"

#include "ckpt/store.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/files.h"
#include "ckpt/safetensors.h"
#include "comm/threads.h"
#include "folder.h"

namespace weft::ckpt {
namespace fs = std::filesystem;
namespace {

Piece whole(const std::string& name, const at::Tensor& t, DType dtype = DType::kF32) {
  return {name, dtype, t.sizes().vec(), {std::vector<int64_t>(static_cast<size_t>(t.dim())), t.sizes().vec()}};
}

std::vector<Source> some_state(int64_t step) {
  std::vector<Source> s;
  const at::Tensor w = at::arange(24, at::kFloat).view({4, 6}) + step, h = at::full({5}, step, at::kBFloat16), n = at::full({}, step, at::kLong);
  s.push_back({whole("layers.0.w", w), w});
  s.push_back({whole("norm", h, DType::kBf16), h});
  s.push_back({whole("optim.exp_avg.layers.0.w", w), w * 2});
  s.push_back({whole("count", n, DType::kI64), n});
  return s;
}

void save_step(const Store& store, int64_t step, int keep = 3) {
  Manifest m;
  m.step = step, m.consumed_samples = 10 * step, m.config = {{"model", {{"dim", 4}}}}, m.rng_seed = ~uint64_t{0};
  auto self = self_comm();
  store.save(*self, m, some_state(step), keep);
}

void flip(const std::string& path, size_t at) {
  std::string s = read_file(path);
  s[at] = static_cast<char>(s[at] ^ 1);
  write_file_atomic(path, s);
}

int64_t loaded_step(const Found& f) {
  at::Tensor w = at::empty({4, 6});
  load(f, std::vector<Target>{{whole("layers.0.w", w), w}});
  EXPECT_TRUE(at::equal(w, at::arange(24, at::kFloat).view({4, 6}) + f.manifest.step));
  return f.manifest.step;
}

}  // namespace

TEST(Store, GivesBackWhatWasSaved) {
  const TempFolder dir;
  const Store store(dir.path + "/checkpoints");
  EXPECT_FALSE(store.newest_valid().has_value()) << "nothing committed is not an error";
  save_step(store, 7);
  const auto f = store.newest_valid();
  ASSERT_TRUE(f.has_value());
  EXPECT_EQ(f->manifest.consumed_samples, 70);
  EXPECT_EQ(f->manifest.rng_seed, ~uint64_t{0});
  EXPECT_EQ(f->manifest.config["model"]["dim"], 4);
  EXPECT_EQ(f->manifest.files.size(), 2u);
  EXPECT_EQ(loaded_step(*f), 7);
  at::Tensor part = at::empty({2, 3}), n = at::empty({}, at::kLong);
  load(*f, std::vector<Target>{{{"optim.exp_avg.layers.0.w", DType::kF32, {4, 6}, {{1, 2}, {2, 3}}}, part}, {whole("count", n, DType::kI64), n}});
  EXPECT_EQ(n.item<int64_t>(), 7);
  EXPECT_TRUE(at::equal(part, ((at::arange(24, at::kFloat).view({4, 6}) + 7) * 2).slice(0, 1, 3).slice(1, 2, 5)));
  const SafetensorsFile shard(f->path + "/model-00000.safetensors");
  EXPECT_NE(shard.find("norm"), nullptr) << "shards are plain files under the parameters' names";
  EXPECT_EQ(shard.find("optim.exp_avg.layers.0.w"), nullptr);
}

TEST(Store, KeepsTheLastNAndSweepsLeftovers) {
  const TempFolder dir;
  const Store store(dir.path);
  for (int64_t step : {5, 10, 15, 20}) save_step(store, step, 2);
  EXPECT_EQ(store.committed(), (std::vector<std::string>{dir.path + "/step-00000015", dir.path + "/step-00000020"}));
  fs::create_directories(dir.path + "/.saving-step-00000025");
  fs::create_directories(dir.path + "/.deleting-step-00000005/x");
  EXPECT_EQ(store.newest_valid()->manifest.step, 20);
  store.sweep();
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path), fs::directory_iterator()), 2);
  save_step(store, 20, 2);  // the same step again replaces it
  EXPECT_EQ(loaded_step(*store.newest_valid()), 20);
}

TEST(Store, EveryDamagedByteOrCutIsRefusedByNameAndTheLastGoodOneIsUsed) {
  const TempFolder dir;
  const Store store(dir.path);
  save_step(store, 1);
  save_step(store, 2);
  const std::string bad = dir.path + "/step-00000002";
  for (const char* name : {"manifest.json", "model-00000.safetensors", "optim-00000.safetensors"}) {
    const std::string path = bad + "/" + name, good = read_file(path);
    const size_t step = std::string(name) == "manifest.json" ? 7 : 1;
    for (size_t i = 0; i < good.size(); i += step) {
      flip(path, i);
      std::vector<Refused> refused;
      const auto f = store.newest_valid(&refused);
      ASSERT_TRUE(f.has_value());
      if (f->manifest.step == 2) {  // only a byte that means nothing may pass: white space of the manifest
        ASSERT_TRUE(std::string(name) == "manifest.json" && std::isspace(static_cast<unsigned char>(good[i])) != 0) << name << " byte " << i;
      } else {
        ASSERT_EQ(refused.size(), 1u);
        ASSERT_EQ(refused[0].path, bad);
        ASSERT_NE(refused[0].why.find(bad), std::string::npos) << refused[0].why;
        ASSERT_EQ(loaded_step(*f), 1);
      }
      write_file_atomic(path, good);
    }
    for (size_t n : {size_t{0}, good.size() / 2, good.size() - 1}) {
      write_file_atomic(path, good.substr(0, n));
      if (n + 1 < good.size() || step == 1) { ASSERT_EQ(store.newest_valid()->manifest.step, 1) << name << " cut to " << n; }
    }
    fs::remove(path);
    ASSERT_EQ(store.newest_valid()->manifest.step, 1) << name << " removed";
    write_file_atomic(path, good);
    ASSERT_EQ(store.newest_valid()->manifest.step, 2);
  }
}

TEST(Store, NoneValidIsAnErrorThatNamesAll) {
  const TempFolder dir;
  const Store store(dir.path);
  save_step(store, 1), save_step(store, 2);
  for (const char* s : {"/step-00000001/model-00000.safetensors", "/step-00000002/model-00000.safetensors"}) {
    const std::string path = dir.path + s;
    flip(path, read_file(path).size() - 1);
  }
  try {
    store.newest_valid();
    FAIL();
  } catch (const CheckpointError& e) {
    EXPECT_NE(std::string(e.what()).find("step-00000001"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("step-00000002"), std::string::npos);
  }
}

TEST(Store, AnotherShapeIsRefused) {
  const TempFolder dir;
  const Store store(dir.path);
  save_step(store, 1);
  at::Tensor w = at::empty({4, 5});
  EXPECT_THROW(load(*store.newest_valid(), std::vector<Target>{{whole("layers.0.w", w), w}}), InputError);
}

TEST(Store, RanksSaveTheirPiecesAndOtherRanksLoadThemInAnotherCut) {
  const TempFolder dir;
  const Store store(dir.path);
  const at::Tensor w = at::arange(48, at::kFloat).view({8, 6});
  run_ranks(4, [&](World& world) {
    auto comm = world.group(std::vector<int>{0, 1, 2, 3}, "all");
    const int64_t r = comm->rank();
    std::vector<Source> mine;  // two boxes a rank, as a fused dim would have
    for (int64_t row : {r, r + 4}) mine.push_back({{"w", DType::kF32, {8, 6}, {{row, 0}, {1, 6}}}, w.slice(0, row, row + 1)});
    Manifest m;
    m.step = 3;
    store.save(*comm, m, mine, 1);
  });
  const auto f = store.newest_valid();
  ASSERT_TRUE(f.has_value());
  EXPECT_EQ(f->manifest.ranks, 4);
  for (int64_t c : {0, 3}) {
    at::Tensor half = at::empty({8, 3});
    load(*f, std::vector<Target>{{{"w", DType::kF32, {8, 6}, {{0, c}, {8, 3}}}, half}});
    EXPECT_TRUE(at::equal(half, w.slice(1, c, c + 3)));
  }
  EXPECT_THROW(run_ranks(2, [&](World& world) {  // a row that nobody has
                 auto comm = world.group(std::vector<int>{0, 1}, "all");
                 Manifest m;
                 m.step = 4;
                 const int64_t r = comm->rank();
                 store.save(*comm, m, std::vector<Source>{{{"w", DType::kF32, {8, 6}, {{3 * r, 0}, {3, 6}}}, w.slice(0, 3 * r, 3 * r + 3)}}, 1);
               }), InputError);
  EXPECT_EQ(store.newest_valid()->manifest.step, 3);
}

}  // namespace weft::ckpt
