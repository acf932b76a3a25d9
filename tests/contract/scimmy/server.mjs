// A SCIM server that we did not write: scimmy behind express, records in memory.
// node server.mjs PORT TOKEN < {"users": […], "groups": […]}; prints "ready" when it listens.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(process.cwd() + "/"));
const load = async (name) => {
  const found = (await import(pathToFileURL(require.resolve(name)))).default;
  return found.default ?? found;
};
const express = await load("express");
const SCIMMY = await load("scimmy");
const SCIMMYRouters = await load("scimmy-routers");

const [port, token] = process.argv.slice(2);
const data = JSON.parse(readFileSync(0, "utf8"));

const serve = (type, records) =>
  SCIMMY.Resources.declare(type, {
    egress: (resource) => {
      if (resource.id) {
        const found = records.find((record) => record.id === resource.id);
        if (!found) throw new SCIMMY.Types.Error(404, null, `${resource.id} not found`);
        return found;
      }
      return records;
    },
    ingress: () => { throw new SCIMMY.Types.Error(501, null, "read only"); },
    degress: () => { throw new SCIMMY.Types.Error(501, null, "read only"); },
  });
serve(SCIMMY.Resources.User, data.users);
serve(SCIMMY.Resources.Group, data.groups);

const app = express();
app.use("/scim", new SCIMMYRouters({
  type: "bearer",
  handler: (request) => {
    if (request.header("Authorization") !== `Bearer ${token}`) throw new Error("no");
    return "tester";
  },
}));
app.listen(Number(port), "127.0.0.1", () => console.log("ready"));
