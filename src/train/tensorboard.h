// Event files that TensorBoard reads: TFRecord framing (length, masked CRC-32C, data, masked CRC-32C) around Event messages in
// protocol-buffer wire form (tensorflow/core/util/event.proto: wall_time 1, step 2, file_version 3, summary 5, session_log 7).
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "train/report.h"

namespace weft::train {

uint32_t crc32c(std::string_view bytes);  // Castagnoli, reflected, as iSCSI has it (RFC 3720)

class EventWriter {
 public:
  // Makes FOLDER/events.out.tfevents.TIME.HOST.PID. `purge_from`: readers drop what earlier files have from this step on.
  EventWriter(const std::string& folder, int64_t purge_from);
  void scalars(int64_t step, std::span<const std::pair<std::string, double>> values);
  const std::string& path() const { return path_; }

 private:
  void record(const std::string& event);
  std::string path_;
};

class TensorBoard final : public Callback {
 public:
  TensorBoard(const std::string& folder, int64_t loaded_step) : writer_(folder, loaded_step + 1) {}
  Verdict on_step(const StepReport&) override;
  void on_eval(const EvalReport&) override;

 private:
  EventWriter writer_;
};

}  // namespace weft::train
