import { fileURLToPath } from "node:url";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// The package as it is in this tree. A project of your own installs it: `npm install oneport-client`.
const client = fileURLToPath(new URL("../../client/src", import.meta.url));

export default defineConfig({
  base: "/react/",
  plugins: [react()],
  resolve: { alias: { "oneport-client": `${client}/index.js` } },
  server: {
    fs: { allow: [".", client] },
    // `npm run dev` shows this page with hot reload; its sockets go on to Oneport.
    proxy: { "/ws": { target: "http://127.0.0.1:8000", ws: true, changeOrigin: true, rewriteWsOrigin: true } },
  },
});
