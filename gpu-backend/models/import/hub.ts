import { listFiles, modelInfo } from "@huggingface/hub";
import type { Checksum } from "./checksum.ts";
import { type HubAccess, HubError, hubFetch } from "./hub-fetch.ts";

export interface RemoteFile {
  name: string;
  url: URL;
  bytes: number;
  checksum: Checksum;
}

/** `revision`: a branch, tag or commit. Throws a HubError. */
export async function openRepository(name: string, revision: string, access: HubAccess) {
  const common = { hubUrl: access.endpoint, fetch: hubFetch(name, access) };
  try {
    // The hub returns the full id, such as `openai-community/gpt2` for `gpt2`.
    const { name: id, sha } = await modelInfo({ ...common, name, revision, additionalFields: ["sha"] });
    if (!/^[0-9a-f]{40}$/.test(sha)) throw new HubError(`${access.endpoint} names no commit of ${name}: ${sha}`);
    const files = new Map<string, RemoteFile>();
    for await (const { type, path, size, oid, lfs } of listFiles({ ...common, repo: id, revision: sha })) {
      if (type !== "file") continue;
      const checksum: Checksum = lfs ? { kind: "sha256", hex: lfs.oid } : { kind: "git-blob", hex: oid ?? "" };
      const url = new URL(`${access.endpoint}/${id}/resolve/${sha}/${encodeURIComponent(path)}`);
      files.set(path, { name: path, url, bytes: size, checksum });
    }
    return { id, commit: sha, files, fetch: common.fetch };
  } catch (error) {
    if (error instanceof HubError || access.signal?.aborted) throw error;
    throw new HubError(`${access.endpoint} does not answer as a Hugging Face hub does: ${(error as Error).message}`);
  }
}
