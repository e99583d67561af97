/** Runs a step of `chameleon start` in a process of its own, whose memory is free when the step ends. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";

/** Returns a script's stdout. Kills the script if this process exits. Exits with a failed script's code. */
export async function runScript(script: URL, args: readonly string[]): Promise<string> {
  const child = spawn(process.execPath, [fileURLToPath(script), ...args], { stdio: ["inherit", "pipe", "inherit"] });
  const kill = () => void child.kill();
  process.once("exit", kill);
  const [printed, [code]] = await Promise.all([text(child.stdout), once(child, "close")]);
  process.off("exit", kill);
  if (code !== 0) process.exit(code ?? 1);
  return printed;
}
