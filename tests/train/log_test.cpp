#include "ops/aten.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>

#include "../ckpt/folder.h"
#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "train/loss_log.h"
#include "train/plot.h"
#include "train/tensorboard.h"

namespace weft::train {
namespace {

StepReport report(int64_t step) {
  StepReport r;
  r.step = step, r.total_steps = 100, r.consumed_samples = 8 * step, r.loss = 3.0 / static_cast<double>(step), r.grad_norm = 0.1 * static_cast<double>(step);
  r.lr = 1e-3, r.seconds = 0.5, r.tokens_per_second = 100, r.bits_per_byte = r.loss / 2;
  r.figures["aux_loss"] = 0.25;
  return r;
}

}  // namespace

TEST(LossLog, IsExactAndIsCutBackToTheLoadedStep) {
  const TempFolder dir;
  const std::string path = dir.path + "/loss.tsv";
  {
    LossLog log(path, 0);
    for (int64_t i = 1; i <= 10; ++i) log.on_step(report(i));
    log.before_save();
  }
  const std::string whole = read_file(path);
  EXPECT_TRUE(whole.starts_with("step\tsamples\tloss\tgrad_norm\n1\t8\t0x1.8p+1\t0x1.999999999999ap-4\n")) << whole;
  for (int64_t loaded : {0, 4, 10}) {
    write_file_atomic(path, whole + "11\t88\t0x1.8p");  // the line of a killed process
    LossLog log(path, loaded);
    for (int64_t i = loaded + 1; i <= 10; ++i) log.on_step(report(i));
    EXPECT_EQ(read_file(path), whole) << loaded;
  }
}

TEST(MetricsLog, HasOneObjectALineAndForgetsWhatCameAfterTheLoadedStep) {
  const TempFolder dir;
  const std::string path = dir.path + "/metrics.jsonl";
  {
    MetricsLog log(path, 0);
    log.on_eval({});
    for (int64_t i = 1; i <= 4; ++i) log.on_step(report(i));
    EvalReport e;
    e.step = 4, e.loss = 2;
    log.on_eval(e);
  }
  const std::string whole = read_file(path);
  EXPECT_EQ(std::count(whole.begin(), whole.end(), '\n'), 6);
  const Json line = parse_json(std::string_view(whole).substr(whole.find('\n') + 1, whole.find('\n', whole.find('\n') + 1) - whole.find('\n') - 1), "line 2");
  EXPECT_EQ(line["step"], 1);
  EXPECT_EQ(line["aux_loss"], 0.25);
  EXPECT_EQ(line["loss"], 3.0);
  write_file_atomic(path, whole + "{\"step\": 5, \"lo");
  MetricsLog log(path, 3);
  const std::string kept = read_file(path);
  EXPECT_EQ(std::count(kept.begin(), kept.end(), '\n'), 4);
  EXPECT_TRUE(whole.starts_with(kept));
}

TEST(Plot, DrawsEveryCurveOfTheMetrics) {
  const TempFolder dir;
  const std::string path = dir.path + "/metrics.jsonl";
  MetricsLog log(path, 0);
  EXPECT_THROW(read_panels(path), InputError);
  for (int64_t i = 1; i <= 30; ++i) {
    StepReport r = report(i);
    if (i == 7) r.grad_norm = std::numeric_limits<double>::infinity();  // null in JSON
    log.on_step(r);
  }
  EvalReport e;
  e.step = 30, e.loss = 1.25;
  log.on_eval(e);
  const std::vector<Panel> panels = read_panels(path);
  ASSERT_EQ(panels.size(), 3u);
  EXPECT_EQ(panels[0].curves.size(), 2u);
  EXPECT_EQ(panels[0].curves[0].points.size(), 30u);
  EXPECT_EQ(panels[1].curves[0].points.size(), 29u);
  const std::string svg = draw("a <run> & more", panels);
  EXPECT_TRUE(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
  EXPECT_NE(svg.find("a &lt;run&gt; &amp; more"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
  size_t lines = 0;
  for (size_t at = svg.find("<polyline"); at != std::string::npos; at = svg.find("<polyline", at + 1)) ++lines;
  EXPECT_EQ(lines, 4u);
  EXPECT_NE(draw("flat", {{"p", {{"c", {{1, 2}}}}, true}, {"empty", {}, false}}).find("no values"), std::string::npos);
}

TEST(TensorBoard, HasTheCheckValueOfItsChecksum) { EXPECT_EQ(crc32c("123456789"), 0xE3069283u); }

TEST(TensorBoard, FramesAreWhole) {
  const TempFolder dir;
  EventWriter writer(dir.path + "/tb", 1);
  const std::pair<std::string, double> one[] = {{"loss", 2.5}};
  writer.scalars(300, one);
  const std::string all = read_file(writer.path());
  size_t at = 0;
  int records = 0;
  while (at < all.size()) {
    uint64_t n = 0;
    std::memcpy(&n, all.data() + at, 8);
    ASSERT_LE(at + 16 + n, all.size());
    uint32_t crc = 0;
    std::memcpy(&crc, all.data() + at + 12 + n, 4);
    const uint32_t want = crc32c(std::string_view(all).substr(at + 12, n));
    EXPECT_EQ(crc, ((want >> 15) | (want << 17)) + 0xA282EAD8u);
    at += 16 + n, ++records;
  }
  EXPECT_EQ(at, all.size());
  EXPECT_EQ(records, 2);
}

// WEFT_ORACLES names a Python that has the tensorboard package.
TEST(TensorBoard, IsReadByTensorBoardItself) {
  const char* python = std::getenv("WEFT_ORACLES");
  if (python == nullptr) GTEST_SKIP() << "\nskipped: tensorboard: WEFT_ORACLES is not set";
  const TempFolder dir;
  {
    TensorBoard first(dir.path + "/tb", 0);
    for (int64_t i = 1; i <= 7; ++i) first.on_step(report(i));
  }
  const std::string second = dir.path + "/tb2";
  make_folders(second);
  TensorBoard resumed(dir.path + "/tb", 5);
  StepReport r = report(6);
  r.loss = 42;
  resumed.on_step(r);
  write_file_atomic(dir.path + "/check.py", R"(
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
a = EventAccumulator(sys.argv[1]); a.Reload()
loss = a.Scalars("train/loss")
assert [e.step for e in loss] == [1, 2, 3, 4, 5, 6], [e.step for e in loss]
assert abs(loss[2].value - 1.0) < 1e-7 and loss[5].value == 42, loss
assert len(a.Scalars("model/aux_loss")) == 6
)");
  if (std::system((std::string(python) + " -c 'import tensorboard' 2>/dev/null").c_str()) != 0) GTEST_SKIP() << "\nskipped: tensorboard is not installed";
  EXPECT_EQ(std::system((std::string(python) + " " + dir.path + "/check.py " + dir.path + "/tb").c_str()), 0);
}

}  // namespace weft::train
