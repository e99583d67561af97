/** `npm run docs`: builds the documents site, which the next start serves at /docs. */
import { createCommand, runCommand } from "../../gpu-backend/command-line.ts";
import { buildSite, siteFolder } from "./build.ts";

const program = createCommand("docs", "Build the documents site, which the next start serves at /docs", [
  "npm run docs",
]).action(async () => {
  console.log(`${(await buildSite()) ? "built" : "up to date:"} ${siteFolder}`);
});

await runCommand(program);
