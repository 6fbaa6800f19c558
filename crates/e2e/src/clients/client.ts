// A tag's life, through a client whose types were generated from the document.
import createClient from "openapi-fetch";
import type { paths } from "./operators_port";

const client = createClient<paths>({ baseUrl: process.argv[2] });

function done<T>({ data, error, response }: { data?: T; error?: unknown; response: Response }): T | undefined {
  if (error !== undefined || !response.ok) throw new Error(`${response.status}: ${JSON.stringify(error)}`);
  return data;
}

async function main() {
  for (const app_tag of ["gone", "kept"]) {
    done(await client.POST("/api/tags", { body: { app_tag, step: 10, start: "5", description: "a" } }));
  }
  const tag = { params: { path: { tag: "kept" } } };
  done(await client.PATCH("/api/tags/{tag}", { ...tag, body: { step: "20", description: "b" } }));
  done(await client.POST("/api/tags/{tag}/advance", { ...tag, body: { to: 700 } }));
  // No body: as far as this server was granted the tag.
  done(await client.POST("/api/tag/advance", { params: { query: { app_tag: "test_business" } } }));
  const shown = done(await client.GET("/api/tag", { params: { query: { app_tag: "kept" } } }));
  if (shown?.max_id !== "700") throw new Error(JSON.stringify(shown));
  done(await client.DELETE("/api/tags/{tag}", { params: { path: { tag: "gone" }, query: { confirm: "gone" } } }));
}

main();
