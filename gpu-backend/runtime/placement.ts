/** Finds the nodes for which a device has no kernel. Only ONNX Runtime's log has this list, so a process is started to write the log. */
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const script = fileURLToPath(new URL("./placement-process.ts", import.meta.url));
const maxLogBytes = 2 ** 28;
/** Timeout, because a driver may hang. */
const timeoutMs = 60_000;

/** Returns operator and name of each node. Rejects if the graph cannot be opened. */
export async function nodesOnCpu(graph: Uint8Array): Promise<string[]> {
  const folder = await mkdtemp(join(tmpdir(), "placement-"));
  try {
    const path = join(folder, "graph.onnx");
    await writeFile(path, graph);
    const options = { maxBuffer: maxLogBytes, timeout: timeoutMs, killSignal: "SIGKILL" } as const;
    const { stderr, stdout } = await promisify(execFile)(process.execPath, [script, path], options);
    return nodesPlacedOnCpu(`${stdout}${stderr}`);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** The log has the number of nodes on the CPU, then one line for each node. */
function nodesPlacedOnCpu(log: string): string[] {
  const lines = log.split("\n");
  const at = lines.findIndex((line) => line.includes("placed on [CPUExecutionProvider]"));
  if (at < 0) return [];
  const count = Number(/Number of nodes: (\d+)/.exec(lines[at])?.[1] ?? 0);
  return lines.slice(at + 1, at + 1 + count).map((line) => line.slice(line.lastIndexOf("]") + 1).trim());
}
