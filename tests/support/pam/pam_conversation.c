/* A PAM module that plays a conversation from a script, so that one module can be any site's second factor.
 *
 *     auth required /path/pam_conversation.so script=PATH record=PATH
 *
 * A line of the script is a word and the rest of the line; `\n`, `\t` and `\\` stand for what they do in C, `%u` for
 * the user's name. Lines that begin with `#` and empty lines mean nothing.
 *
 *     echo_off PROMPT   ask without echo; the answer is kept and recorded
 *     echo_on PROMPT    the same with echo
 *     info TEXT         show a text (sshd puts it before the next prompt)
 *     error TEXT        the same as an error
 *     expect VALUE      fail unless the last answer is VALUE
 *     when VALUE        the lines up to `end` hold only if the last answer is VALUE
 *     end
 *     wait SECONDS      let time pass, fractions allowed: a push on its way
 *     attempts N        after a failure start over, N attempts at most, in the same conversation
 *     allow | deny      the end, well or badly; the end of the script denies
 *
 * The record gets one line for each event, with tabs between: `answer USER TEXT`, `allow USER`, `deny USER`.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAM_SM_AUTH
#include <security/pam_ext.h>
#include <security/pam_modules.h>

#define LINE 4096

static const char *record_path;

static void record(const char *event, const char *user, const char *text)
{
    char line[LINE];
    int length = snprintf(line, sizeof line, text ? "%s\t%s\t%s\n" : "%s\t%s\n", event, user, text);
    int file = open(record_path, O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (file < 0)
        return;
    if (length < 0 || (size_t)length >= sizeof line || write(file, line, (size_t)length) != length)
        fprintf(stderr, "pam_conversation: cannot write the record\n");
    close(file);
}

static void expand(const char *from, const char *user, char *to, size_t size)
{
    size_t at = 0;
    for (; *from && at + 1 < size; from++) {
        if (*from == '\\' && from[1]) {
            from++;
            to[at++] = *from == 'n' ? '\n' : *from == 't' ? '\t' : *from;
        } else if (*from == '%' && from[1] == 'u') {
            from++;
            at += (size_t)snprintf(to + at, size - at, "%s", user);
            if (at >= size)
                at = size - 1;
        } else {
            to[at++] = *from;
        }
    }
    to[at] = '\0';
}

static void pause_for(const char *seconds)
{
    double length = strtod(seconds, NULL);
    struct timespec left = { (time_t)length, (long)((length - (double)(time_t)length) * 1e9) };
    while (nanosleep(&left, &left) && errno == EINTR)
        ;
}

/* One attempt: PAM_SUCCESS, PAM_AUTH_ERR, or PAM_CONV_ERR when nobody is there any more. */
static int play(pam_handle_t *pam, FILE *script, const char *user, long *attempts)
{
    char line[LINE], text[LINE], answer[LINE] = "";
    int skipping = 0;

    while (fgets(line, sizeof line, script)) {
        line[strcspn(line, "\n")] = '\0';
        char *rest = line + strcspn(line, " ");
        if (*rest)
            *rest++ = '\0';
        expand(rest, user, text, sizeof text);
        if (!strcmp(line, "end"))
            skipping = 0;
        else if (skipping || !*line || *line == '#')
            continue;
        else if (!strcmp(line, "echo_off") || !strcmp(line, "echo_on")) {
            char *reply = NULL;
            int style = line[6] == 'f' ? PAM_PROMPT_ECHO_OFF : PAM_PROMPT_ECHO_ON;
            if (pam_prompt(pam, style, &reply, "%s", text) != PAM_SUCCESS || !reply)
                return PAM_CONV_ERR;
            snprintf(answer, sizeof answer, "%s", reply);
            free(reply);
            record("answer", user, answer);
        } else if (!strcmp(line, "info"))
            pam_info(pam, "%s", text);
        else if (!strcmp(line, "error"))
            pam_error(pam, "%s", text);
        else if (!strcmp(line, "when"))
            skipping = strcmp(answer, text) != 0;
        else if (!strcmp(line, "wait"))
            pause_for(text);
        else if (!strcmp(line, "attempts"))
            *attempts = strtol(text, NULL, 10);
        else if (!strcmp(line, "allow"))
            return PAM_SUCCESS;
        else if (strcmp(line, "expect") || strcmp(answer, text))
            return PAM_AUTH_ERR;
    }
    return PAM_AUTH_ERR;
}

int pam_sm_authenticate(pam_handle_t *pam, int flags, int argc, const char **argv)
{
    const char *user = NULL, *script_path = NULL;
    long attempts = 1;
    int result = PAM_AUTH_ERR;

    (void)flags;
    record_path = "/dev/null";
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "script=", 7))
            script_path = argv[i] + 7;
        else if (!strncmp(argv[i], "record=", 7))
            record_path = argv[i] + 7;
    }
    if (!script_path || pam_get_user(pam, &user, NULL) != PAM_SUCCESS)
        return PAM_SERVICE_ERR;
    FILE *script = fopen(script_path, "r");
    if (!script)
        return PAM_SERVICE_ERR;
    for (long tried = 0; tried < attempts && result == PAM_AUTH_ERR; tried++) {
        rewind(script);
        result = play(pam, script, user, &attempts);
    }
    fclose(script);
    record(result == PAM_SUCCESS ? "allow" : "deny", user, NULL);
    return result;
}

int pam_sm_setcred(pam_handle_t *pam, int flags, int argc, const char **argv)
{
    (void)pam, (void)flags, (void)argc, (void)argv;
    return PAM_SUCCESS;
}
