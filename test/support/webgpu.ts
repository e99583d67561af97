/** Whether there is a WebGPU adapter to test on. */
import { GraphBuilder } from "../../gpu-backend/runtime/graph.ts";
import { openSession } from "../../gpu-backend/runtime/session.ts";

/**
 * Returns null if there is a WebGPU adapter. Debian's mesa-vulkan-drivers has a software driver, libvulkan1 the loader. Throws any other
 * error.
 */
export async function webgpuFailure(): Promise<string | null> {
  const g = new GraphBuilder("nothing");
  g.output("y", g.node("Neg", [g.input("x", "float32", [1])]), "float32", [1]);
  try {
    const session = await openSession(g.bytes(), { threads: 1, device: "webgpu" });
    await session.release();
    return null;
  } catch (error) {
    if (/No supported adapters/.test(String(error))) return "no WebGPU adapter (no Vulkan driver)";
    throw error;
  }
}
