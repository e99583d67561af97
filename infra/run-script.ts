/** Runs a step of a start in a process of its own, which gives its memory back when it ends. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";

/**
 * Runs a script of ours and returns what it prints on stdout. It ends with this process. Where it fails it has said why on stderr,
 * and this process ends with its exit code.
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
