// The control groups that this process is in.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dca {

/// Folders of the process's own group and of those around it, from the innermost to the root: limits of all of them hold.
/// Of version 2 and, where `controller` ("memory", "cpu") is one of version 1's, of that. Folders that a container does
/// not show are among them; what is read there is simply missing.
std::vector<std::string> control_groups(std::string_view controller);

}  // namespace dca
