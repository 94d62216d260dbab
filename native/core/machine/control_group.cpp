#include "core/machine/control_group.h"

#include <fstream>
#include <sstream>

namespace dca {

namespace {

constexpr const char* mount_point = "/sys/fs/cgroup";

/// Whether `controller` is one of the comma-separated `controllers`.
bool lists(const std::string& controllers, std::string_view controller) {
    std::istringstream names(controllers);
    for (std::string name; std::getline(names, name, ',');) {
        if (name == controller) return true;
    }
    return false;
}

}  // namespace

std::vector<std::string> control_groups(std::string_view controller) {
    std::vector<std::string> folders;
    const auto add_upwards = [&](const std::string& root, std::string path) {
        // A path that leads out of the namespace's own root names a folder that is not shown.
        if (path.find("/..") != std::string::npos) path.clear();
        while (path.size() > 1) {
            folders.push_back(root + path);
            path.resize(path.rfind('/'));
        }
        folders.push_back(root);
    };
    const std::string version_1 = std::string(mount_point) + "/" + std::string(controller);
    bool found_2 = false, found_1 = false;
    std::ifstream own("/proc/self/cgroup");
    for (std::string line; std::getline(own, line);) {  // hierarchy:controllers:path
        const size_t first = line.find(':');
        const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const std::string path = line.substr(second + 1);
        if (controllers.empty()) {
            add_upwards(mount_point, path);
            found_2 = true;
        } else if (lists(controllers, controller)) {
            add_upwards(version_1, path);
            found_1 = true;
        }
    }
    if (!found_2) folders.push_back(mount_point);
    if (!found_1) folders.push_back(version_1);
    return folders;
}

}  // namespace dca
