/** Memory of a process and all that it has started, by process. Linux only. */
import { readFileSync } from "node:fs";
import path from "node:path";

export interface ProcessMemory {
  pid: number;
  /** Name of its script, or of its program. */
  name: string;
  /** Resident memory, where a page that several processes have counts in parts (PSS): the sum is what all of them take. */
  bytes: number;
}

/** The process itself first. Leaves out those that end meanwhile. Throws the system's error where `pid` does not run. */
export function processMemory(pid: number): ProcessMemory[] {
  return [pid, ...descendantsOf(pid)].flatMap((one) => {
    try {
      const [, kilobytes] = /^Pss: +(\d+) kB$/m.exec(readFileSync(`/proc/${one}/smaps_rollup`, "utf8"))!;
      return [{ pid: one, name: processName(one), bytes: 1024 * Number(kilobytes) }];
    } catch (error) {
      if (one === pid) throw error;
      return [];
    }
  });
}

export function descendantsOf(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number);
  return children.flatMap((child) => [child, ...descendantsOf(child)]);
}

/** 0 for the first process. */
export function parentOf(pid: number): number {
  return Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]);
}

export function processName(pid: number): string {
  const [program, ...args] = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  return path.basename(args.find((argument) => /\.[cm]?[jt]s$/.test(argument)) ?? program);
}
