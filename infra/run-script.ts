/** Runs a step of `chameleon start` in a process of its own, so that its memory is freed when it ends. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";

/**
 * Runs a script of this project and returns its stdout. The script is stopped when this process ends. If the script fails, it has said
 * why on stderr, and this process exits with the script's exit code.
 */
export async function runScript(script: URL, args: readonly string[]): Promise<string> {
  const child = spawn(process.execPath, [fileURLToPath(script), ...args], { stdio: ["inherit", "pipe", "inherit"] });
  const kill = () => void child.kill();
  process.once("exit", kill);
  const [printed, [code]] = await Promise.all([text(child.stdout), once(child, "close")]);
  process.off("exit", kill);
  if (code !== 0) process.exit(code ?? 1);
  return printed;
}
