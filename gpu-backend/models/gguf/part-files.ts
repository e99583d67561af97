/** Reads a large file, or its parts `model.gguf.part-1`, `model.gguf.part-2` and so on. Synchronous. */
import { closeSync, existsSync, fstatSync, openSync, readSync } from "node:fs";

const maxParts = 1000;

export type PartFiles = ReturnType<typeof openPartFiles>;

export function existsInParts(path: string): boolean {
  return existsSync(path) || existsSync(partPath(path, 1));
}

/** Throws an Error that names what is missing, or what is not a file. */
export function openPartFiles(path: string) {
  const parts = partsOf(path);
  const opened: { handle: number; start: number; bytes: number }[] = [];
  const close = () => {
    for (const { handle } of opened.splice(0)) closeSync(handle);
  };
  let total = 0;
  try {
    for (const part of parts) {
      const handle = openSync(part, "r");
      opened.push({ handle, start: total, bytes: 0 });
      const about = fstatSync(handle);
      if (!about.isFile()) throw new Error(`${part} is not a file`);
      opened[opened.length - 1].bytes = about.size;
      total += about.size;
    }
  } catch (error) {
    close();
    throw error;
  }
  const read = (at: number, length: number) => {
    if (at + length > total) throw new Error(`${path}: ${length} bytes at ${at} go past its end at ${total}`);
    const bytes = new Uint8Array(length);
    for (const part of opened) {
      let from = Math.max(at, part.start);
      const end = Math.min(at + length, part.start + part.bytes);
      while (from < end) {
        const count = readSync(part.handle, bytes, from - at, end - from, from - part.start);
        if (count === 0) throw new Error(`${path}: it became shorter while it was read`);
        from += count;
      }
    }
    return bytes;
  };
  const stats = () => opened.map(({ handle }) => fstatSync(handle, { bigint: true }));
  return { path, bytes: total, parts, read, stats, close };
}

function partsOf(path: string): string[] {
  if (existsSync(path)) return [path];
  const parts: string[] = [];
  while (existsSync(partPath(path, parts.length + 1))) {
    parts.push(partPath(path, parts.length + 1));
    if (parts.length > maxParts) throw new Error(`${path} has more than ${maxParts} parts`);
  }
  if (parts.length === 0) throw new Error(`neither ${path} nor ${partPath(path, 1)} exists`);
  return parts;
}

function partPath(path: string, part: number): string {
  return `${path}.part-${part}`;
}
