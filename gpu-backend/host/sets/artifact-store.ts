/**
 * Reads the bucket of published artifacts: over HTTP, signed for the S3 API if there are credentials, or from a folder with the
 * same names. Not here: the content of the bucket (`shared/artifacts/FORMAT.md`).
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { AwsClient } from "aws4fetch";
import { pointerName } from "../../../shared/artifacts/bucket.ts";
import { readAtMost } from "../../../shared/artifacts/set-file.ts";
import { nullIfMissing, readFileAtMost } from "../../bounded-file.ts";

/**
 * Returns at most `mostBytes + 1` bytes of an object, so the caller can detect an oversized one; null if it does not exist.
 * Rejects with an Error that states the cause.
 */
export type ReadObject = (name: string, mostBytes: number) => Promise<Uint8Array | null>;

export interface StoreSettings {
  /** An http, https or file URL. */
  url: string;
  credentials: { accessKeyId: string; secretAccessKey: string } | null;
}

/** Of the pointer, which is small and asked for before a start; of a file. */
const [pointerMs, fileMs] = [5000, 120_000];

export function openStore({ url, credentials }: StoreSettings): ReadObject {
  if (url.startsWith("file:")) {
    return (name, mostBytes) => readFileAtMost(join(fileURLToPath(url), name), mostBytes).catch(nullIfMissing);
  }
  // No retries: the caller polls.
  const client = credentials && new AwsClient({ ...credentials, service: "s3", region: "auto", retries: 0 });
  const base = url.replace(/\/+$/, "");
  return async (name, mostBytes) => {
    const target = `${base}/${name}`;
    const init = { signal: AbortSignal.timeout(name === pointerName ? pointerMs : fileMs) };
    const response = client ? await client.fetch(target, init) : await fetch(target, init);
    if (response.status === 404) {
      await response.body?.cancel();
      return null;
    }
    if (!response.ok) {
      await response.body?.cancel();
      throw new Error(`${target} answered ${response.status}`);
    }
    return response.body ? await readAtMost(response.body, mostBytes) : new Uint8Array(0);
  };
}
