// Where the time of a step goes: wall time inside each operator, by its kind. Counts what this thread calls, and the backward
// passes that it starts. Operators of the tensor library that run inside one of ours count as ours.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace weft::train {

double process_cpu_seconds();  // of all threads, since the start

class OpTimes {
 public:
  OpTimes();  // listens from here until it is destroyed; one at a time on a thread
  ~OpTimes();
  OpTimes(const OpTimes&) = delete;
  OpTimes& operator=(const OpTimes&) = delete;

  struct Row {
    std::string name;  // "linear_dw", "RmsNormBwd", "aten::add"
    int64_t calls;
    double seconds, cpu_seconds;  // of the wall clock, and of all threads of the process: what counts on a machine that is shared
  };
  std::vector<Row> rows() const;  // the longest first

 private:
  struct Listener;
  std::unique_ptr<Listener> listener_;
};

}  // namespace weft::train
