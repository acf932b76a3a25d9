"""Hosts and schemes that no link of an answer may lead to."""

from __future__ import annotations

HOST_NAMES = """
evil.example idp.example.evil.example evil-idp.example idp.example. idp.example.. .idp.example xidp.example
idp idp.example:80 idp.example:444 idp.example:8443 idp.example: idp.example:-443 idp.example:0443443
idp.example:443:443 idp.example:x idp.example@evil.example idp.example:443@evil.example user@idp.example
user:pw@idp.example @idp.example :@idp.example evil.example@idp.example idp%2eexample idp.example%00
idp.example%2f.evil.example idp.example%23.evil.example idp.example%40evil.example %69dp.example 127.0.0.1
2130706433 0x7f.1 0x7f000001 0177.0.0.1 127.1 [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] 0 localhost
169.254.169.254 metadata.google.internal [fe80::1%25eth0] [idp.example] idp.example[::1] \u0131dp.example
\u0456dp.example idp\u3002example idp\uff0eexample \uff49\uff44\uff50.example idp.examp\u0142e
idp.\u0435\u0445ample xn--idp-.example \u24d8dp.example idp.example\u200b idp.example\xad idp.example\u202e
idp.ex\u200bample *.example $idp.example idp_example idp.example;evil.example idp.example,evil.example
idp.example&evil.example idp.example=x
"""
HOSTS = HOST_NAMES.split()
SCHEMES = ("http", "ftp", "ws", "wss", "file", "gopher", "data", "httpsx", "xhttps", "ht%74ps")
