/**
 * The bucket of published artifacts: each file under the hash of its bytes, so that nothing is ever written over, and one
 * pointer that says which set is served. Both sides read it by these names; the admin API alone writes.
 */
import * as z from "zod";
import { parseChecked } from "./checked-json.ts";
import { setLimits } from "./limits.ts";
import { edgeTableFile, type Manifest, tokenizerFile } from "./manifest.ts";

/** The one object that changes. */
export const pointerName = "artifacts/current.json";

/** Of a file, manifest.json included, by SHA-256 of its bytes. */
export function objectName(sha256: string): string {
  return `artifacts/sha256/${sha256}`;
}

/** Which objects the edge needs of the set that the pointer names. */
export interface EdgeFiles {
  /** SHA-256 of the manifest. */
  manifest: string;
  /** SHA-256 of each file that the edge reads, the manifest included. */
  files: string[];
}

export function edgeFilesOfSet(manifest: string, { files }: Pick<Manifest, "files">): EdgeFiles {
  return { manifest, files: [manifest, files[edgeTableFile].sha256, files[tokenizerFile].sha256] };
}

const edgeFilesKey = "edge-files";

/** The pointer's metadata. It is a hint to read them at once; readers before it do not know it. */
export function metadataOf(edgeFiles: EdgeFiles): Record<string, string> {
  return { [edgeFilesKey]: edgeFiles.files.join(" ") };
}

/** null where there is none, or none that is understood. */
export function edgeFilesOf(metadata: Record<string, string>): EdgeFiles | null {
  const files = metadata[edgeFilesKey]?.split(" ") ?? [];
  const isKnown = files.length > 0 && files.length <= 8 && files.every((hash) => /^[0-9a-f]{64}$/.test(hash));
  return isKnown ? { manifest: files[0], files } : null;
}

const pointerFormat = 1;

const pointerSchema = z.strictObject({
  format: z.literal(pointerFormat),
  /** Newest first: the first is served. */
  switches: z
    .array(z.strictObject({ manifest: z.string().regex(/^[0-9a-f]{64}$/), at: z.iso.datetime() }))
    .min(1)
    .max(setLimits.pointerSwitches),
});

export type Pointer = z.infer<typeof pointerSchema>;

/** Throws an Error that says what is wrong with it. */
export function parsePointer(json: string): Pointer {
  // No value takes less than two characters.
  const bounds = { characters: setLimits.pointerBytes, values: setLimits.pointerBytes };
  return parseChecked(pointerSchema, json, pointerName, bounds);
}

/** Hash of the manifest that is served. */
export function currentOf({ switches }: Pointer): string {
  return switches[0].manifest;
}

/** Hash of the manifest that was served before; null where there was none. */
export function previousOf({ switches }: Pick<Pointer, "switches">): string | null {
  return switches.find(({ manifest }) => manifest !== switches[0].manifest)?.manifest ?? null;
}

/** The pointer after a switch. */
export function switchedTo(manifest: string, at: Date, pointer: Pointer | null): Pointer {
  const switches = [{ manifest, at: at.toISOString() }, ...(pointer?.switches ?? [])];
  return { format: pointerFormat, switches: switches.slice(0, setLimits.pointerSwitches) };
}
