/** Object names in the bucket of published artifacts. A file is named by the hash of its bytes. A pointer names the served set. */
import * as z from "zod";
import { parseChecked } from "./checked-json.ts";
import { setLimits } from "./limits.ts";
import { edgeTableFile, type Manifest, tokenizerFile } from "./manifest.ts";

export const pointerName = "artifacts/current.json";

export function objectName(sha256: string): string {
  return `artifacts/sha256/${sha256}`;
}

/** Hashes of the set's files that the edge reads, that of manifest.json first. */
export function edgeFilesOfSet(manifest: string, { files }: Pick<Manifest, "files">): string[] {
  return [manifest, files[edgeTableFile].sha256, files[tokenizerFile].sha256];
}

const edgeFilesKey = "edge-files";

/** Metadata that lists the edge's files, so that a reader can request all of them at once. Older pointers have none. */
export function metadataOf(edgeFiles: readonly string[]): Record<string, string> {
  return { [edgeFilesKey]: edgeFiles.join(" ") };
}

export function edgeFilesOf(metadata: Record<string, string>): string[] | null {
  const files = metadata[edgeFilesKey]?.split(" ") ?? [];
  const isKnown = files.length > 0 && files.length <= 8 && files.every((hash) => /^[0-9a-f]{64}$/.test(hash));
  return isKnown ? files : null;
}

const pointerFormat = 1;

const pointerSchema = z.strictObject({
  format: z.literal(pointerFormat),
  /** Sets that have been served, newest first. The first entry is served now. */
  switches: z
    .array(z.strictObject({ manifest: z.string().regex(/^[0-9a-f]{64}$/), at: z.iso.datetime() }))
    .min(1)
    .max(setLimits.pointerSwitches),
});

export type Pointer = z.infer<typeof pointerSchema>;

export function parsePointer(json: string): Pointer {
  // JSON has fewer values than characters, so the characters are the only limit.
  const bounds = { characters: setLimits.pointerBytes, values: setLimits.pointerBytes };
  return parseChecked(pointerSchema, json, pointerName, bounds);
}

export function currentOf({ switches }: Pointer): string {
  return switches[0].manifest;
}

/** Hash of the manifest that was served before the current one, or null. */
export function previousOf({ switches }: Pick<Pointer, "switches">): string | null {
  return switches.find(({ manifest }) => manifest !== switches[0].manifest)?.manifest ?? null;
}

export function switchedTo(manifest: string, at: Date, pointer: Pointer | null): Pointer {
  const switches = [{ manifest, at: at.toISOString() }, ...(pointer?.switches ?? [])];
  return { format: pointerFormat, switches: switches.slice(0, setLimits.pointerSwitches) };
}
