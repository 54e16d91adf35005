// The verbs, one file each.
#pragma once
#include "app/verb.h"

namespace weft::app {

Action bench(Flags&, Common&);
Action completion(Flags&, Common&);
Action config_verb(Flags&, Common&);
Action demo(Flags&, Common&);
Action doctor(Flags&, Common&);
Action eval(Flags&, Common&);
Action generate(Flags&, Common&);
Action help(Flags&, Common&);
Action init(Flags&, Common&);
Action inspect(Flags&, Common&);
Action prepare(Flags&, Common&);
Action train_verb(Flags&, Common&);
Action version(Flags&, Common&);

}  // namespace weft::app
