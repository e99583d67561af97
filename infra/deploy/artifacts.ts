/** Publishes artifacts as a part of a deployment, so that they can be taken back with it. */

import { readArtifactSet } from "../publish/artifact-set.ts";
import { publishSet, rollBack } from "../publish/publish.ts";
import type { ObjectStore } from "../publish/store.ts";

/** Publishes the set of `folder`, and returns what serves the earlier one again. */
export async function publishArtifacts(
  store: ObjectStore,
  folder: string,
  say: (line: string) => void,
  now: () => Date,
): Promise<() => Promise<void>> {
  const publisher = { store, say, now };
  const { before, manifest, switched } = await publishSet(publisher, await readArtifactSet(folder));
  return async () => {
    if (!switched) return;
    if (before !== null) await rollBack(publisher, before);
    else say(`${manifest} stays published: nothing was published before it`);
  };
}
