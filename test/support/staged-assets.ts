/** Global setup of tests that run the Worker: the static assets, with the small base's artifacts. */
import { stageArtifacts } from "../../infra/stage-artifacts.ts";
import { stagePages } from "../../infra/stage-pages.ts";
import { smallBase } from "./small-base.ts";

export default async function setup(): Promise<void> {
  await stageArtifacts(smallBase);
  await stagePages();
}
