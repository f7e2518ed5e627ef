#!/bin/sh
# POST adds a note, and each answer has all of them.
if [ "$REQUEST_METHOD" = POST ]; then
  { head -c "$CONTENT_LENGTH"; echo; } >>/notes/notes.txt
  sync -d /notes/notes.txt
fi
printf 'Content-Type: text/plain\r\n\r\n'
cat /notes/notes.txt 2>/dev/null
