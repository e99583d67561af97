/**
 * A KV namespace and an R2 bucket for a local start: folders with one file per record or object. workerd replaces files atomically, and
 * makes bindings of this module ("wrapped bindings").
 */
import { hexOf, sha256Hex } from "../shared/bytes.ts";
import type { Bucket } from "./artifacts/artifact-bucket.ts";
import { type PublishBucket, wrongHash } from "./artifacts/publish.ts";
import type { RecordStore } from "./tenants/key-records.ts";
import type { Namespace } from "./tenants/records.ts";

/** workerd's disk service. It answers with a file's bytes, or with a JSON list of a folder's files. */
interface Folder {
  folder: { fetch(url: string, init?: RequestInit): Promise<Response> };
}

/** A record's file has the record's percent-encoded name. */
export function namespace({ folder }: Folder): Namespace & RecordStore {
  const fileOf = (name: string) => encodeURIComponent(encodeURIComponent(name));
  const get = async (name: string) => (await read(folder, fileOf(name)))?.json() ?? null;
  return {
    staleSeconds: 0,
    get: (async (names: string | string[]) => {
      if (typeof names === "string") return get(names);
      return new Map(await Promise.all(names.map(async (name) => [name, await get(name)] as const)));
    }) as Namespace["get"] & RecordStore["get"],
    async list({ prefix }) {
      const files = await (await read(folder, ""))!.json<{ name: string }[]>();
      const keys = files.map(({ name }) => ({ name: decodeURIComponent(name) }));
      return { keys: keys.filter(({ name }) => name.startsWith(prefix)), list_complete: true };
    },
    put: (name, body) => write(folder, fileOf(name), { method: "PUT", body }),
    delete: (name) => write(folder, fileOf(name), { method: "DELETE" }),
  };
}

/** Milliseconds since 1970 until which another conditional replacement may run; 0: none runs. */
let replacedUntilMs = 0;
/** Duration after which a replacement counts as failed. */
const replaceMs = 10_000;

/** Object names are paths below the folder. Metadata are not stored, because the edge uses them only as hints. */
export function bucket({ folder }: Folder): Bucket & PublishBucket {
  const find = async (name: string) => {
    const found = await read(folder, name);
    if (!found) return null;
    const bytes = await found.arrayBuffer();
    const sha256 = await crypto.subtle.digest("SHA-256", bytes);
    const { body } = new Response(bytes);
    return {
      ...{ etag: hexOf(sha256), size: bytes.byteLength, checksums: { sha256 } },
      ...{ body, text: () => new Response(bytes).text(), arrayBuffer: async () => bytes },
    };
  };
  return {
    head: find,
    get: (async (name: string, options?: { onlyIf: { etagDoesNotMatch: string } }) => {
      const found = await find(name);
      return found && options?.onlyIf.etagDoesNotMatch === found.etag ? { etag: found.etag } : found;
    }) as Bucket["get"] & PublishBucket["get"],
    async put(name, value, { sha256, onlyIf }) {
      // The body is read first, because workerd would store the beginning of a body that breaks off.
      const body = await new Response(value).arrayBuffer();
      if (sha256 !== undefined && (await sha256Hex(new Uint8Array(body))) !== sha256) throw new Error(wrongHash);
      if (!onlyIf) return write(folder, name, { method: "PUT", body });
      // Another request is replacing an object. A request that ended half-way does not reset `replacedUntilMs`.
      if (Date.now() < replacedUntilMs) return null;
      replacedUntilMs = Date.now() + replaceMs;
      try {
        const found = await find(name);
        if (onlyIf.get("if-match") !== (found && `"${found.etag}"`)) return null;
        return await write(folder, name, { method: "PUT", body });
      } finally {
        replacedUntilMs = 0;
      }
    },
  };
}

async function read(folder: Folder["folder"], path: string): Promise<Response | null> {
  const response = await folder.fetch(`http://folder/${path}`);
  if (response.status === 404) return null;
  if (!response.ok) throw new Error(`${path} cannot be read: ${response.status} ${await response.text()}`);
  return response;
}

/** Deleting a missing file does not fail. */
async function write(folder: Folder["folder"], path: string, init: RequestInit): Promise<void> {
  const response = await folder.fetch(`http://folder/${path}`, init);
  if (response.ok || (response.status === 404 && init.method === "DELETE")) return;
  throw new Error(`${path} cannot be written: ${response.status} ${await response.text()}`);
}
