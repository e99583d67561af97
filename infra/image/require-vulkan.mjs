/**
 * Loaded before the backend in the GPU's image: ends in one sentence where the container was given no Vulkan driver, because the
 * backend would serve on the CPU then, and occupy the GPU's node. Not here: whether the driver works, which the device probe tells.
 */
import { readdirSync } from "node:fs";

/** Where the Vulkan loader looks for drivers' manifests. */
const folders = ["/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/usr/share/vulkan/icd.d"];

function hasManifest(folder) {
  try {
    return readdirSync(folder).some((name) => name.endsWith(".json"));
  } catch {
    return false;
  }
}

if (!folders.some(hasManifest)) {
  process.stderr.write(
    `chameleon backend: no Vulkan driver in this container: there is no manifest in ${folders.join(", ")}. ` +
      "It comes from the NVIDIA Container Toolkit, 1.18 or newer, by the runtime `nvidia` and " +
      "NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics. DEVICE=cpu is for the image's target `cpu`.\n",
  );
  process.exit(1);
}
