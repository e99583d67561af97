/** Resident memory of a process and all that it has started. Linux only. */
import { readFileSync } from "node:fs";

/** Resident bytes of a process and its children. A page that n processes share counts as 1/n for each (PSS). */
export function processBytes(pid: number): number {
  const kilobytes = (one: number) => /^Pss: +(\d+) kB$/m.exec(readFileSync(`/proc/${one}/smaps_rollup`, "utf8"))![1];
  return [pid, ...descendantsOf(pid)].reduce((sum, one) => sum + 1024 * Number(kilobytes(one)), 0);
}

export function descendantsOf(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number);
  return children.flatMap((child) => [child, ...descendantsOf(child)]);
}
